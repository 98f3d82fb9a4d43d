// A pool of nodemailer: PORT CA PASSWORD CONNECTIONS MESSAGES. Each message asks for a DSN.
const fs = require('fs');
const nodemailer = require('nodemailer');

const [port, ca, pass, connections, messages] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  pool: true,
  maxConnections: Number(connections),
  host: '127.0.0.1',
  port: Number(port),
  secure: true,
  auth: { user: 'alice', pass },
  tls: { ca: fs.readFileSync(ca), servername: 'relay.test' },
});

const send = (i) => transport.sendMail({
  from: 'alice@d0001.test',
  to: 'b@d0002.test',
  subject: `pooled ${i}`,
  text: `.body ${i}`,
  messageId: `<pooled-${i}@d0001.test>`,
  dsn: { id: `id${i}`, return: 'headers', notify: ['failure', 'delay'], recipient: 'alice@d0001.test' },
});

Promise.all([...Array(Number(messages)).keys()].map(send))
  .then(() => transport.close())
  .catch((error) => { console.error(error); process.exit(1); });
