// A small server of node-opcua: counters that step together, an array, a text, a value that turns bad.
// With load = {items, every}: so many counters more, UInt32, all of them set each `every` ms, for measurements.
// lads: the nodesets of laboratory devices, with the device Incubator. history: the counters keep theirs. alarm: a limit alarm on Level, which rises and falls, or is high ("high").
// skew: seconds that its clock is wrong by. argv[2] is JSON: {port, pki, every, secure, load, lads, history, skew}. Prints one JSON line when ready; ends when stdin does.
const path = require("path");
const skew = 1000 * (JSON.parse(process.argv[2]).skew || 0);
if (skew) {
    const Right = Date;
    const now = () => Right.now() + skew;
    global.Date = class extends Right { constructor(...given) { given.length ? super(...given) : super(now()); } static now() { return now(); } };
}
const { OPCUAServer, Variant, DataType, StatusCodes, VariantArrayType, MessageSecurityMode, SecurityPolicy,
    OPCUACertificateManager, DataValue, MonitoredItem, makeEUInformation } = require("node-opcua");

(async () => {
    const options = JSON.parse(process.argv[2]);
    const certificates = new OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: options.trust !== false,
        rootFolder: path.join(options.pki, "server") });
    await certificates.initialize();
    const users = new OPCUACertificateManager({ automaticallyAcceptUnknownCertificate: true, rootFolder: path.join(options.pki, "users") });
    await users.initialize();
    if (options.load) MonitoredItem.minimumSamplingInterval = 1;
    const sets = options.lads ? require("node-opcua-nodesets").nodesets : {};
    const loads = options.lads ? { nodeset_filename: [sets.standard, sets.di, sets.ia, sets.machinery, sets.amb, sets.lads] } : {};
    const server = new OPCUAServer({ port: options.port, ...loads, host: "127.0.0.1", hostname: "127.0.0.1",
        serverCertificateManager: certificates, userCertificateManager: users, allowAnonymous: !options.user,
        userManager: { isValidUser: (user, password) => user === options.user && password === options.password },
        securityModes: options.secure ? [MessageSecurityMode.Sign, MessageSecurityMode.SignAndEncrypt] : [MessageSecurityMode.None],
        securityPolicies: options.secure ? [SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes128_Sha256_RsaOaep, SecurityPolicy.Aes256_Sha256_RsaPss] : [SecurityPolicy.None],
        serverInfo: { applicationUri: "urn:peer:node-opcua" }, buildInfo: { productName: "peer", manufacturerName: "nobody here" } });
    await server.initialize();
    const space = server.engine.addressSpace;
    const own = space.getOwnNamespace();
    const folder = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Lab" });
    let count = 0;
    const at = (dataType, value) => new DataValue({ value: new Variant({ dataType, arrayType: VariantArrayType.Scalar, value }), sourceTimestamp: new Date(),
        serverTimestamp: new Date(), statusCode: StatusCodes.Good });
    const counters = [];
    for (const [name, dataType] of [["Counter", "Int32"], ["Total", "Int64"], ["Ratio", "Double"]]) {
        counters.push([own.addAnalogDataItem({ componentOf: folder, nodeId: `s=${name}`, browseName: name, dataType, description: `the ${name}`,
            engineeringUnits: makeEUInformation("mm", "mm", "millimetre"), engineeringUnitsRange: { low: 0, high: 1e6 } }), DataType[dataType]]);
    }
    own.addVariable({ componentOf: folder, nodeId: "s=Spectrum", browseName: "Spectrum", minimumSamplingInterval: 50, dataType: "Float", valueRank: 1, value: {
        get: () => new Variant({ dataType: DataType.Float, arrayType: VariantArrayType.Array, value: new Float32Array([1.5, 2.5, 3.5]) }) } });
    own.addVariable({ componentOf: folder, nodeId: "s=Note", browseName: "Note", minimumSamplingInterval: 50, dataType: "String", value: {
        get: () => new Variant({ dataType: DataType.String, value: "\u00e9".repeat(200) }) } });
    own.addVariable({ componentOf: folder, nodeId: "s=Broken", browseName: "Broken", minimumSamplingInterval: 50, dataType: "Double", value: {
        timestamped_get: () => new DataValue({ statusCode: StatusCodes.BadSensorFailure, sourceTimestamp: new Date() }) } });
    const started = own.addVariable({ componentOf: folder, nodeId: "i=5001", browseName: "Started at", dataType: "DateTime" });
    started.setValueFromSource({ dataType: DataType.DateTime, value: new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 678)) });
    if (options.history) for (const [node] of counters) space.installHistoricalDataNode(node);
    if (options.lads) {
        const lads = space.getNamespaceIndex("http://opcfoundation.org/UA/LADS/");
        const devices = space.findNode(`ns=${space.getNamespaceIndex("http://opcfoundation.org/UA/DI/")};i=5001`);
        const made = (type, browseName, parent) => space.findObjectType(type, lads).instantiate({ browseName, componentOf: parent, namespace: own,
            optionals: ["FunctionSet"] });
        const device = made("LADSDeviceType", "Incubator", devices);
        device.serialNumber.setValueFromSource({ dataType: DataType.String, value: "SN-77" });
        const unit = made("FunctionalUnitType", "Chamber", device.functionalUnitSet);
        const sensor = made("AnalogScalarSensorFunctionType", "Temperature", unit.functionSet);
        sensor.sensorValue.setValueFromSource({ dataType: DataType.Double, value: 37.5 });
    }
    if (options.alarm) {
        space.installAlarmsAndConditionsService();
        const tank = own.addObject({ organizedBy: space.rootFolder.objects, browseName: "Tank", eventNotifier: 1, notifierOf: space.rootFolder.objects.server });
        const level = own.addVariable({ componentOf: tank, nodeId: "s=Level", browseName: "Level", dataType: "Double", eventSourceOf: tank });
        level.setValueFromSource({ dataType: DataType.Double, value: 20 });
        own.instantiateExclusiveLimitAlarm("ExclusiveLimitAlarmType", { browseName: "LevelHigh", conditionName: "LevelHigh", componentOf: tank,
            conditionSource: level, inputNode: level, optionals: ["ConfirmedState", "Confirm"],
            highHighLimit: 100, highLimit: 50, lowLimit: 1, lowLowLimit: 0 });
        let steps = 0;
        if (options.alarm === "high") level.setValueFromSource({ dataType: DataType.Double, value: 60 });
        else setInterval(() => level.setValueFromSource({ dataType: DataType.Double, value: (steps += 1) % 2 ? 60 : 20 }), 300).unref();
    }
    const loaded = [];
    for (let n = 0; n < (options.load ? options.load.items : 0); n += 1) {
        const name = `Load${String(n).padStart(4, "0")}`;
        loaded.push(own.addVariable({ componentOf: folder, nodeId: `s=${name}`, browseName: name, dataType: "UInt32" }));
    }
    let steps = 0;
    const step = () => { // once a tick, never two at a time: a server that samples would see only the second
        steps += 1;
        for (const node of loaded) node.setValueFromSource({ dataType: DataType.UInt32, value: steps }, StatusCodes.Good, new Date());
    };
    const tick = () => {
        count += 1;
        for (const [node, dataType] of counters) {
            const value = dataType === DataType.Double ? count / 2 : dataType === DataType.Int64 ? [0, count] : count;
            const stamped = at(dataType, value);
            node.setValueFromSource(stamped.value, StatusCodes.Good, stamped.sourceTimestamp);
        }
    };
    tick();
    await server.start();
    const timer = setInterval(tick, options.every || 100);
    const loading = options.load ? setInterval(step, options.load.every) : null;
    console.log(JSON.stringify({ ready: true, namespace: own.namespaceUri, certificate: path.join(options.pki, "server", "own", "certs") }));
    process.stdin.on("end", () => { clearInterval(timer); clearInterval(loading); server.shutdown(0).then(() => process.exit(0)); }).resume();
})().catch((error) => { console.log(JSON.stringify({ error: String(error && error.stack) })); process.exit(1); });
