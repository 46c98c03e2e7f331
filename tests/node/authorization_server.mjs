// The authorisation server of the tests: `oidc-provider` with its own sign-in pages, which
// take any password. A mail program gets access tokens by the authorisation code grant
// (RFC 6749 section 4.1) and an IMAP server asks what they are worth by introspection
// (RFC 7662).
//
//   node authorization_server.mjs PORT LIFETIME
//
// It listens on loopback; LIFETIME is how many seconds an access token is good for.
import Provider from "oidc-provider";

const [port, lifetime] = process.argv.slice(2).map(Number);
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: "mail-program",
      token_endpoint_auth_method: "none",
      application_type: "native",
      redirect_uris: [`${issuer}/done`],
      grant_types: ["authorization_code"],
      response_types: ["code"],
    },
    {
      client_id: "imap-server",
      client_secret: "imap-server-secret",
      redirect_uris: [],
      grant_types: [],
      response_types: [],
    },
  ],
  features: { introspection: { enabled: true }, revocation: { enabled: true } },
  findAccount: (_context, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  pkce: { required: () => false },
  ttl: { AccessToken: lifetime },
});

provider.listen(port, "127.0.0.1");
