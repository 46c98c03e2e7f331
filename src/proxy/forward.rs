//! What the backend is told of the client: Dovecot's ID fields and the client's own.

use crate::protocol::command::IdPair;
use crate::session::forwarded;
use crate::upstream::dial::ClientAddresses;

/// RFC 2971 section 3.3: pairs in one ID, and bytes of a value.
const PAIRS_MAX: usize = 30;
const VALUE_BYTES_MAX: usize = 1024;
/// Bytes of all fields together: with the proxy's own the line stays below the 8 KiB that
/// Dovecot takes before login.
const FIELDS_BYTES_MAX: usize = 6 * 1024;
/// Longest name a client asked for in TLS (RFC 1035 section 2.3.4).
const SERVER_NAME_BYTES_MAX: usize = 255;
/// A login that may pass so many proxies, this one included, before it counts as a loop
/// (Dovecot's own number).
const PROXY_TTL: u32 = 5;
/// Random letters of a tag: with them nobody on the path can guess an answer's tag.
const TAG_LETTERS: usize = 10;

/// An ID parameter list.
pub(super) type IdFields = Vec<IdPair>;

/// How many proxies a login may still pass, this one included. What anybody says is
/// heeded where it is less: a lie fails the liar's login only.
pub(super) fn proxies_left(told: Option<u32>) -> u32 {
    told.map_or(PROXY_TTL, |told| told.min(PROXY_TTL))
}

/// The proxy's own fields (Dovecot's names) first, then the client's, cut to what one
/// ID may hold.
pub(super) fn id_fields(
    client: &ClientAddresses,
    ttl: u32,
    forward: &[IdPair],
    own: &[IdPair],
) -> IdFields {
    let transport = if client.tls { "TLS" } else { "insecure" };
    let mut fields: Vec<(&str, String)> = vec![
        ("x-session-id", client.session.clone()),
        ("x-originating-ip", client.remote.ip().to_canonical().to_string()),
        ("x-originating-port", client.remote.port().to_string()),
        ("x-connected-ip", client.local.ip().to_canonical().to_string()),
        ("x-connected-port", client.local.port().to_string()),
        ("x-proxy-ttl", ttl.to_string()),
        ("x-client-transport", transport.to_owned()),
    ];
    if let Some(name) = &client.server_name {
        let name = name.chars().filter(char::is_ascii_graphic).take(SERVER_NAME_BYTES_MAX);
        fields.push(("x-connected-name", name.collect()));
    }
    let proxy =
        fields.into_iter().map(|(key, value)| (key.as_bytes().to_vec(), Some(value.into_bytes())));
    let forward = forward.iter().map(cleaned);
    cut(proxy.chain(forward).chain(client_fields(own)))
}

/// The client's fields without those that only a proxy may set, in bytes that a quoted
/// string can hold.
pub(super) fn client_fields(own: &[IdPair]) -> IdFields {
    cut(own.iter().filter(|(key, _)| !forwarded::is_proxy_field(key)).map(cleaned))
}

/// As many fields as one ID may hold. One that is too long for the rest is left out.
fn cut(fields: impl Iterator<Item = IdPair>) -> IdFields {
    let mut left = FIELDS_BYTES_MAX;
    let fits = |(key, value): &IdPair| {
        let bytes = key.len() + value.as_ref().map_or(0, Vec::len) + "\"\" \"\" ".len();
        let fits = bytes <= left;
        left -= if fits { bytes } else { 0 };
        fits
    };
    fields.filter(fits).take(PAIRS_MAX).collect()
}

fn cleaned((key, value): &IdPair) -> IdPair {
    (printable(key), value.as_deref().map(printable))
}

fn printable(bytes: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| if matches!(byte, 0x20..=0x7e) { *byte } else { b'?' };
    bytes.iter().map(plain).take(VALUE_BYTES_MAX).collect()
}

/// Letters that begin the proxy's tags towards a backend. The system's randomness: a
/// tag that can be foretold would let somebody on the path forge an answer.
pub(super) fn tag_prefix() -> String {
    let mut random = [0; TAG_LETTERS];
    // Without randomness the login goes on with weak tags: TLS is what protects the leg.
    let _ = getrandom::fill(&mut random);
    random.iter().map(|byte| char::from(b'a' + byte % 26)).chain(['.']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientAddresses {
        ClientAddresses {
            remote: "[::ffff:192.0.2.7]:4711".parse().unwrap(),
            local: "[::1]:993".parse().unwrap(),
            server_name: Some("mail.example.org".into()),
            tls: true,
            tls_version: Some("TLSv1.3"),
            tls_cipher: None,
            proxied: false,
            session: "0123456789abcdef".into(),
        }
    }

    fn value_of(fields: &IdFields, key: &str) -> Option<String> {
        let (_, value) = fields.iter().find(|(known, _)| known == key.as_bytes())?;
        value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned())
    }

    #[test]
    fn the_backend_learns_the_clients_address_in_its_plain_form() {
        let fields = id_fields(&client(), 4, &[], &[]);
        assert_eq!(value_of(&fields, "x-originating-ip").unwrap(), "192.0.2.7");
        assert_eq!(value_of(&fields, "x-connected-name").unwrap(), "mail.example.org");
        assert_eq!(value_of(&fields, "x-client-transport").unwrap(), "TLS");
    }

    #[test]
    fn a_client_cannot_set_the_fields_of_a_proxy() {
        let own = vec![
            (b"X-Originating-IP".to_vec(), Some(b"203.0.113.9".to_vec())),
            (b"name".to_vec(), Some(b"mail\r\nprogram".to_vec())),
        ];
        let fields = id_fields(&client(), 4, &[], &own);
        assert_eq!(
            fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(b"x-originating-ip")).count(),
            1
        );
        assert_eq!(value_of(&fields, "x-originating-ip").unwrap(), "192.0.2.7");
        assert_eq!(value_of(&fields, "name").unwrap(), "mail??program");
    }

    #[test]
    fn one_id_holds_at_most_thirty_pairs() {
        let own: IdFields = (0..40).map(|n| (format!("k{n}").into_bytes(), None)).collect();
        assert_eq!(id_fields(&client(), 4, &[], &own).len(), 30);
    }

    #[test]
    fn fields_that_would_make_the_line_too_long_are_left_out() {
        let long = |n: u32| (format!("k{n}").into_bytes(), Some(vec![b'v'; 1024]));
        let mut own: IdFields = (0..20).map(long).collect();
        own.push((b"last".to_vec(), Some(b"short".to_vec())));
        let fields = id_fields(&client(), 4, &[], &own);
        let bytes: usize =
            fields.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        assert!(bytes < FIELDS_BYTES_MAX, "{bytes}");
        assert_eq!(value_of(&fields, "last").unwrap(), "short");
    }

    #[test]
    fn the_name_asked_for_in_tls_is_cleaned_and_cut() {
        let odd = ClientAddresses {
            server_name: Some(format!("a\r\nb \u{fc}{}", "x".repeat(2000))),
            ..client()
        };
        let name = value_of(&id_fields(&odd, 4, &[], &[]), "x-connected-name").unwrap();
        assert!(name.starts_with("abxx") && name.len() == 255, "{name}");
    }

    #[test]
    fn a_count_of_proxies_is_only_ever_lowered() {
        assert_eq!(proxies_left(None), 5);
        assert_eq!(proxies_left(Some(3)), 3);
        assert_eq!(proxies_left(Some(4_000_000_000)), 5);
    }
}
