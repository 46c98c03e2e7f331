//! PROXY headers: judged alike for every cut, and what is written is read again.

use std::net::{IpAddr, SocketAddr};

use pointsman::net::proxy_header::{
    self, Progress, ProxyHeader, UNIQUE_ID_BYTES_MAX, V1_BYTES_MAX, V2_LENGTH_MAX,
};

/// What a header and its end come to; an error by its kind.
type Verdict = Result<Option<(ProxyHeader, usize)>, &'static str>;

/// The bytes that a connection begins with.
pub fn run(data: &[u8]) {
    let whole = verdict(data);
    // The first verdict over a growing buffer is the verdict of the whole.
    let step = (data.len() / 64).max(1);
    let growing = (0..=data.len())
        .filter(|len| len % step == 0 || *len == data.len() || *len < 64)
        .map(|len| (len, verdict(&data[..len])))
        .find(|(_, verdict)| *verdict != Ok(None));
    match (&whole, growing) {
        (Ok(None), None) => {}
        (_, Some((len, early))) => {
            assert_eq!(early, whole, "after {len} bytes");
        }
        (_, None) => panic!("no verdict while growing"),
    }
    if let Ok(None) = whole {
        assert!(data.len() < 16 + usize::from(V2_LENGTH_MAX), "an endless header");
        assert!(!data.starts_with(b"PROXY ") || data.len() < V1_BYTES_MAX, "an endless line");
    }
    if let Ok(Some((header, consumed))) = whole {
        check(&header, &data[..consumed]);
    }
}

fn verdict(bytes: &[u8]) -> Verdict {
    match proxy_header::parse(bytes) {
        Ok(Progress::Incomplete) => Ok(None),
        Ok(Progress::Complete { header, consumed }) => {
            assert!(consumed > 0 && consumed <= bytes.len(), "more used than there was");
            Ok(Some((header, consumed)))
        }
        Err(error) => Err(error.reason()),
    }
}

fn check(header: &ProxyHeader, wire: &[u8]) {
    if let Some(addresses) = header.addresses {
        for end in [addresses.source, addresses.destination] {
            assert!(!is_mapped(end), "an IPv4-mapped address stays");
        }
        if let Some(line) = wire.strip_prefix(b"PROXY ") {
            let line = std::str::from_utf8(line).expect("text");
            let words: Vec<&str> = line.trim_end().split(' ').collect();
            let said: IpAddr = words[1].parse().expect("an address");
            assert_eq!(addresses.source.ip(), said.to_canonical());
            assert_eq!(addresses.destination.port().to_string(), words[4]);
        }
    }
    assert!(header.unique_id.as_ref().is_none_or(|id| id.len() <= UNIQUE_ID_BYTES_MAX));
    let clean = |name: &String| !name.chars().any(char::is_control);
    assert!(header.authority.as_ref().is_none_or(clean), "control characters in a name");
}

fn is_mapped(end: SocketAddr) -> bool {
    matches!(end.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}
