// npm's @tus/server over a folder, behind our TLS: node tus_server.mjs '{"folder", "key", "cert", "ca", "named", "port"}'
// It knows nothing of receipts: those that the test lays beside an upload are given out.
import fs from 'node:fs'
import https from 'node:https'
import path from 'node:path'
import { Server } from '@tus/server'
import { FileStore } from '@tus/file-store'

const asked = JSON.parse(process.argv[2])
const named = (request) => {
  const [, value] = request.headers.get('upload-metadata').split(' ')
  const cbor = Buffer.from(value, 'base64')
  const start = cbor.indexOf(Buffer.from('EAP/1/item')) + 'EAP/1/item'.length + 1 // behind key 2
  const [size, at] = cbor[start] === 0x78 ? [cbor[start + 1], start + 2] : [cbor[start] - 0x60, start + 1]
  return cbor.subarray(at, at + size).toString()
}
const tus = new Server({ path: '/files', datastore: new FileStore({ directory: asked.folder }), ...(asked.named ? { namingFunction: named } : {}) })
const tls = { key: fs.readFileSync(asked.key), cert: fs.readFileSync(asked.cert), ca: fs.readFileSync(asked.ca), requestCert: true, rejectUnauthorized: true }
const server = https.createServer(tls, (request, response) => {
  const receipt = /^\/files\/([\w.-]+)\/receipt$/.exec(request.url)
  if (!receipt) return tus.handle(request, response)
  const file = path.join(asked.folder, `${receipt[1]}.receipt`)
  if (!fs.existsSync(file)) return response.writeHead(202, { 'Retry-After': '1' }).end()
  return response.writeHead(200, { 'Content-Type': 'application/cose' }).end(fs.readFileSync(file))
})
server.listen(asked.port, '127.0.0.1', () => console.log(JSON.stringify({ port: server.address().port })))
