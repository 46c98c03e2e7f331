// Signs in by imapflow with a bearer token over STARTTLS, selects INBOX and prints one
// JSON line: what the mails' subjects are, or how the failure is told.
//
//   node imapflow.mjs HOST PORT CA-FILE USER TOKEN
import { readFileSync } from "node:fs";
import { ImapFlow } from "imapflow";

const [host, port, ca, user, accessToken] = process.argv.slice(2);
const client = new ImapFlow({
  host,
  port: Number(port),
  secure: false,
  doSTARTTLS: true,
  tls: { ca: readFileSync(ca) },
  auth: { user, accessToken },
  logger: false,
});

async function subjects() {
  await client.connect();
  await client.mailboxOpen("INBOX");
  const found = [];
  for await (const message of client.fetch("1:*", { envelope: true })) {
    found.push(message.envelope.subject);
  }
  await client.logout();
  return { subjects: found };
}

function failure(error) {
  const { authenticationFailed, serverResponseCode, responseText, oauthError } = error;
  return { authenticationFailed, serverResponseCode, responseText, oauthError };
}

console.log(JSON.stringify(await subjects().catch(failure)));
process.exit(0);
