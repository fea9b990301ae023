// npm's tus-js-client sends a file to a landing service: node tus_client.mjs '{"endpoint", "upload", "file", "item", "cert", "ca", "chunk", "stop"}'
// One line of JSON comes back: where it began, what was accepted, and whether it came to the end.
import fs from 'node:fs'
import * as tus from 'tus-js-client'

const asked = JSON.parse(process.argv[2])
const pem = fs.readFileSync(asked.cert)
const tls = { cert: pem, key: pem, ca: fs.readFileSync(asked.ca) }
const offsets = []
let from = null
const say = (more) => { console.log(JSON.stringify({ from, offsets, url: upload.url, ...more })); process.exit(0) }
const upload = new tus.Upload(fs.createReadStream(asked.file), {
  endpoint: asked.endpoint,
  uploadUrl: asked.upload,
  uploadSize: fs.statSync(asked.file).size,
  chunkSize: asked.chunk,
  retryDelays: null,
  // The announcement is CBOR, and the library's own metadata are texts.
  headers: { 'Upload-Metadata': `item ${asked.item}` },
  httpStack: new tus.DefaultHttpStack(tls),
  onBeforeRequest: (request) => { if (request.getMethod() === 'PATCH' && from === null) from = Number(request.getHeader('Upload-Offset')) },
  onChunkComplete: (_size, accepted) => {
    offsets.push(accepted)
    if (asked.stop && accepted >= asked.stop) say({ done: false })
  },
  onSuccess: () => say({ done: true }),
  onError: (error) => say({ error: String(error) }),
})
upload.start()
