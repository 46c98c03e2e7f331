//! The request: HTTP/1.0, headers in nginx's order and spelling, nothing else.

use std::fmt::Write;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use crate::config::HttpServer;
use crate::names::Secret;
use crate::routing::query::{Query, QueryClient};

/// One request, which holds the password.
pub(super) fn encode(
    server: &HttpServer,
    query: &Query<'_>,
    password: &Secret,
    further: &[(&str, Zeroizing<String>)],
) -> Secret {
    // Each byte becomes three at most; with the other headers it is one allocation, so that
    // nothing of the password stays behind in another one.
    let names = 3 * (query.typed.len() + password.expose().len());
    let more: usize = further.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut out = Vec::with_capacity(2048 + server.target.len() + names + more);
    let mut line = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    line("GET ", format!("{} HTTP/1.0", server.target).as_bytes());
    line("Host: ", host(&server.endpoint.host).as_bytes());
    line("Auth-Method: ", b"plain");
    line("Auth-User: ", &percent(query.typed));
    line("Auth-Pass: ", &Zeroizing::new(percent(password.expose())));
    line("Auth-Protocol: ", b"imap");
    if let Some(client) = &query.client {
        line("Auth-Login-Attempt: ", client.attempt.to_string().as_bytes());
        line("Client-IP: ", client.remote.ip().to_string().as_bytes());
        let mut headers = String::new();
        about_connection(client, &mut headers);
        out.extend_from_slice(headers.as_bytes());
    }
    for (name, value) in further {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Secret::new(out)
}

fn about_connection(client: &QueryClient<'_>, out: &mut String) {
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{name}: {value}\r\n");
    };
    if client.proxied {
        let SocketAddrParts { address, port } = parts(client.remote);
        line("Proxy-Protocol-Addr", &address);
        line("Proxy-Protocol-Port", &port);
        let SocketAddrParts { address, port } = parts(client.local);
        line("Proxy-Protocol-Server-Addr", &address);
        line("Proxy-Protocol-Server-Port", &port);
    }
    if client.tls {
        line("Auth-SSL", &"on");
        if let Some(version) = client.tls_version {
            line("Auth-SSL-Protocol", &version);
        }
        if let Some(cipher) = client.tls_cipher {
            line("Auth-SSL-Cipher", &openssl_name(cipher));
        }
    }
}

struct SocketAddrParts {
    address: std::net::IpAddr,
    port: u16,
}

fn parts(address: SocketAddr) -> SocketAddrParts {
    SocketAddrParts { address: address.ip(), port: address.port() }
}

fn host(name: &str) -> String {
    if name.contains(':') { format!("[{name}]") } else { name.to_owned() }
}

/// As nginx: controls, blanks and percent signs in hex, upper case, and DEL too; the rest raw.
fn percent(bytes: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
    let mut out = Vec::with_capacity(3 * bytes.len());
    for &byte in bytes {
        if matches!(byte, 0..=b' ' | b'%' | 0x7f) {
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
    out
}

/// IANA's name of a cipher suite as OpenSSL calls it; those of TLS 1.3 have one name.
fn openssl_name(iana: &str) -> String {
    let Some(name) = iana.strip_prefix("TLS_ECDHE_") else { return iana.to_owned() };
    let name = name.replace("_WITH", "").replace("AES_", "AES").replace('_', "-");
    format!("ECDHE-{}", name.replace("POLY1305-SHA256", "POLY1305"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, LegSecurity};
    use crate::names::UserName;

    fn server() -> HttpServer {
        let (host, port, security) = ("auth.internal".to_owned(), 9000, LegSecurity::Clear);
        let endpoint = Endpoint { host, port, security };
        HttpServer { endpoint, target: "/mail/auth?x=1".to_owned() }
    }

    #[test]
    fn a_request_is_as_nginx_writes_it() {
        let user = UserName::new("bob");
        let client = QueryClient {
            remote: "192.0.2.7:4321".parse().unwrap(),
            local: "[2001:db8::1]:993".parse().unwrap(),
            server_name: None,
            tls: true,
            tls_version: Some("TLSv1.2"),
            tls_cipher: Some("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
            proxied: true,
            attempt: 2,
            session: "id",
        };
        let query = Query {
            user: &user,
            typed: b"B\xf6b 100%\r\n\0\x7f",
            client: Some(client),
            password: None,
        };
        let further = [("X-Key", Zeroizing::new("s3".to_owned()))];
        let request = encode(&server(), &query, &Secret::new(b"a+b c".to_vec()), &further);
        let expected: &[u8] = b"GET /mail/auth?x=1 HTTP/1.0\r\n\
            Host: auth.internal\r\n\
            Auth-Method: plain\r\n\
            Auth-User: B\xf6b%20100%25%0D%0A%00%7F\r\n\
            Auth-Pass: a+b%20c\r\n\
            Auth-Protocol: imap\r\n\
            Auth-Login-Attempt: 2\r\n\
            Client-IP: 192.0.2.7\r\n\
            Proxy-Protocol-Addr: 192.0.2.7\r\n\
            Proxy-Protocol-Port: 4321\r\n\
            Proxy-Protocol-Server-Addr: 2001:db8::1\r\n\
            Proxy-Protocol-Server-Port: 993\r\n\
            Auth-SSL: on\r\n\
            Auth-SSL-Protocol: TLSv1.2\r\n\
            Auth-SSL-Cipher: ECDHE-RSA-AES256-GCM-SHA384\r\n\
            X-Key: s3\r\n\r\n";
        assert_eq!(
            request.expose().escape_ascii().to_string(),
            expected.escape_ascii().to_string()
        );
    }

    #[test]
    fn cipher_suites_have_openssls_names() {
        let names = [
            ("TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"),
            ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", "ECDHE-RSA-CHACHA20-POLY1305"),
        ];
        for (iana, openssl) in names {
            assert_eq!(openssl_name(iana), openssl);
        }
    }
}
