// A real OpenID Connect provider (oidc-provider, certified) on one address of this machine, for the tests.
// One line of JSON on stdin says how: port, keys (a private JWK set), page (its redirect URI), groups of people.
// "ready" on stdout; it ends with stdin.
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const said = JSON.parse((await lines.next()).value);

const provider = new Provider(`http://127.0.0.1:${said.port}`, {
  jwks: said.keys,
  cookies: { keys: ["a-secret-of-this-test-alone"] },
  clients: [
    { client_id: "page", client_secret: "the-pages-secret", id_token_signed_response_alg: said.algorithm, redirect_uris: [said.page], grant_types: ["authorization_code"] },
    { client_id: "robot", client_secret: "the-robots-secret", id_token_signed_response_alg: said.algorithm, redirect_uris: [], response_types: [], grant_types: ["client_credentials"] },
  ],
  claims: { openid: ["sub"], groups: ["groups"] },
  scopes: ["openid", "groups"],
  conformIdTokenClaims: false,
  enabledJWA: { idTokenSigningAlgValues: ["RS256", "PS256", "ES256", "EdDSA"] },
  pkce: { required: () => true },
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => "urn:ollama",
      useGrantedResource: () => true,
      getResourceServerInfo: () => ({ scope: "infer", audience: "ollama", accessTokenFormat: "jwt", accessTokenTTL: 600, jwt: { sign: { alg: said.algorithm } } }),
    },
  },
  extraTokenClaims: (_, token) => ({ groups: said.groups[token.clientId] ?? [] }),
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: said.groups[id] ?? [] }) }),
});

const server = provider.listen(said.port, "127.0.0.1", () => console.log("ready"));
for await (const _ of lines) { /* nothing more is said */ }
server.closeAllConnections();
server.close();
