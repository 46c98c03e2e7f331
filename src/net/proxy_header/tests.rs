//! Headers whole, split, wrong, and on real sockets.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses::new(source.parse().unwrap(), destination.parse().unwrap())
}

fn complete(bytes: &[u8]) -> (ProxyHeader, usize) {
    match parse(bytes) {
        Ok(Progress::Complete { header, consumed }) => (header, consumed),
        other => panic!("{other:?} for {bytes:?}"),
    }
}

fn refused(bytes: &[u8]) -> &'static str {
    match parse(bytes) {
        Err(error) => error.reason(),
        Ok(progress) => panic!("{progress:?} for {bytes:?}"),
    }
}

/// A version 2 header by hand.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, body].concat()
}

const IPV4: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 5, 0xC0, 0, 0x03, 0xE1];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind][..], &u16::try_from(value.len()).unwrap().to_be_bytes(), value].concat()
}

fn ipv4_with(tlvs: &[Vec<u8>]) -> Vec<u8> {
    v2(0x21, 0x11, &[IPV4.to_vec(), tlvs.concat()].concat())
}

#[test]
fn version_1_names_both_ends() {
    let line = b"PROXY TCP4 192.0.2.1 10.0.0.5 49152 993\r\n\x16\x03\x01";
    let (header, consumed) = complete(line);
    assert_eq!(header.addresses, Some(addresses("192.0.2.1:49152", "10.0.0.5:993")));
    assert_eq!(consumed, line.len() - 3);
    let (header, _) = complete(b"PROXY TCP6 2001:db8::1 ::1 0 65535\r\n");
    assert_eq!(header.addresses, Some(addresses("[2001:db8::1]:0", "[::1]:65535")));
    let (header, _) = complete(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
    assert_eq!(header.addresses, Some(addresses("192.0.2.1:1", "[::1]:2")));
}

#[test]
fn unknown_means_the_socket_addresses() {
    for line in [
        &b"PROXY UNKNOWN\r\n"[..],
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n",
        b"PROXY UNKNOWN \xff\xfe\r\n",
    ] {
        let (header, consumed) = complete(line);
        assert_eq!(header, ProxyHeader::default());
        assert_eq!(consumed, line.len());
    }
}

#[test]
fn version_1_is_strict() {
    for line in [
        "PROXY TCP4 192.0.2.1 10.0.0.5 49152 993\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 49152 993\rX",
        "PROXY TCP4  192.0.2.1 10.0.0.5 49152 993\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 49152 993 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 49152\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 +49152 993\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 049152 993\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.5 65536 993\r\n",
        "PROXY TCP4 192.0.2.01 10.0.0.5 1 993\r\n",
        "PROXY TCP4 192.0.2 10.0.0.5 1 993\r\n",
        "PROXY TCP4 ::1 ::1 1 993\r\n",
        "PROXY TCP6 192.0.2.1 10.0.0.5 1 993\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 993\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.5 1 993\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(refused(line.as_bytes()), "malformed", "{line:?}");
    }
}

#[test]
fn version_1_ends_within_107_bytes() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(longest.len(), V1_BYTES_MAX);
    assert_eq!(complete(longest.as_bytes()).1, V1_BYTES_MAX);
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(refused(longer.as_bytes()), "too_long");
    assert_eq!(refused(&longer.as_bytes()[..V1_BYTES_MAX]), "too_long");
    assert_eq!(refused(format!("PROXY UNKNOWN {}", "x".repeat(500)).as_bytes()), "too_long");
}

#[test]
fn anything_else_is_a_missing_header_from_its_first_wrong_byte() {
    for start in [
        &b"a1 LOGIN u p\r\n"[..],
        b"\x16\x03\x01\x02\x00",
        b"P1 NOOP\r\n",
        b"PROXX",
        b"\r\n\r\nQ",
        b"\r\n\r\n\0\r\nQUIX",
        b" ",
    ] {
        assert_eq!(refused(start), "missing", "{start:?}");
    }
}

#[test]
fn version_2_names_both_ends_and_its_extras() {
    let tls = [&[1, 0, 0, 0, 1][..], &tlv(0x21, b"TLSv1.3"), &tlv(0x22, b"admin")].concat();
    let mut wire = ipv4_with(&[
        tlv(0x01, b"imap"),
        tlv(0x02, b"mail.example.org"),
        tlv(0x04, &[0; 7]),
        tlv(0x05, b"session-1"),
        tlv(0x20, &tls),
        tlv(0x30, b"netns"),
        tlv(0xE0, b"custom"),
    ]);
    let length = wire.len();
    wire.extend_from_slice(b"\x16\x03\x01");
    let (header, consumed) = complete(&wire);
    assert_eq!(consumed, length);
    assert_eq!(
        header,
        ProxyHeader {
            addresses: Some(addresses("192.0.2.1:49152", "10.0.0.5:993")),
            tls: Some(ProxyTls { client_bits: 1, verify: 1 }),
            authority: Some("mail.example.org".into()),
            alpn: Some(b"imap".to_vec()),
            unique_id: Some(b"session-1".to_vec()),
        }
    );
    assert!(header.tls.unwrap().is_over_tls());
}

#[test]
fn local_and_families_without_addresses_mean_the_socket_addresses() {
    let authority = tlv(0x02, b"mail.example.org");
    for wire in [
        v2(0x20, 0x00, b""),
        v2(0x20, 0x11, &[&IPV4[..], &authority].concat()),
        v2(0x20, 0xFF, b"whatever"),
        v2(0x21, 0x00, b"whatever"),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        assert_eq!(complete(&wire), (ProxyHeader::default(), wire.len()));
    }
}

#[test]
fn version_2_is_strict() {
    let long_id = tlv(0x05, &[b'x'; 129]);
    for wire in [
        v2(0x11, 0x11, &IPV4),
        v2(0x22, 0x11, &IPV4),
        v2(0x21, 0x12, &IPV4),
        v2(0x21, 0x41, &IPV4),
        v2(0x21, 0x11, &IPV4[..11]),
        v2(0x21, 0x21, &[0; 35]),
        v2(0x21, 0x31, &[0; 215]),
        ipv4_with(&[vec![0x04]]),
        ipv4_with(&[vec![0x04, 0, 9, 1]]),
        ipv4_with(&[tlv(0x02, b"mail\r\nINJECTED")]),
        ipv4_with(&[tlv(0x02, b"\xff")]),
        ipv4_with(&[tlv(0x20, &[1, 0, 0, 0])]),
        ipv4_with(&[tlv(0x20, &[1, 0, 0, 0, 0, 0x21, 0, 9])]),
        ipv4_with(&[tlv(0x03, &[0; 3])]),
        ipv4_with(&[long_id]),
    ] {
        assert_eq!(refused(&wire), "malformed", "{wire:?}");
    }
}

#[test]
fn a_declared_length_above_the_bound_is_refused_before_its_bytes_come() {
    let mut wire = v2(0x21, 0x11, b"");
    wire[14..16].copy_from_slice(&(V2_LENGTH_MAX + 1).to_be_bytes());
    assert_eq!(refused(&wire), "too_long");
    let flood = ipv4_with(&vec![tlv(0x04, b""); (usize::from(V2_LENGTH_MAX) - 12) / 3]);
    assert_eq!(complete(&flood).1, flood.len());
}

#[test]
fn a_checksum_is_checked_where_it_is_given() {
    assert_eq!(tlv::crc32c(b"123456789".iter()), 0xE306_9283, "the check value of CRC-32C");
    let mut wire = ipv4_with(&[tlv(0x05, b"id"), tlv(0x03, &[0; 4]), tlv(0x04, b"x")]);
    let sum = tlv::crc32c(wire.iter()).to_be_bytes();
    let place = 16 + 12 + 5 + 3;
    wire[place..place + 4].copy_from_slice(&sum);
    assert_eq!(complete(&wire).0.unique_id.as_deref(), Some(&b"id"[..]));
    for at in [17, place, wire.len() - 1] {
        let mut broken = wire.clone();
        broken[at] ^= 0x40;
        assert_eq!(refused(&broken), "checksum", "byte {at}");
    }
}

#[test]
fn ends_of_two_families_travel_as_ipv6() {
    let header = ProxyHeader {
        addresses: Some(addresses("192.0.2.1:50000", "[2001:db8::2]:993")),
        ..ProxyHeader::default()
    };
    let mut wire = Vec::new();
    encode_v2(&header, &mut wire);
    assert_eq!(&wire[12..16], &[0x21, 0x21, 0, 36]);
    assert_eq!(&wire[16..32], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 192, 0, 2, 1]);
    assert_eq!(complete(&wire).0, header);
}

#[test]
fn what_does_not_fit_is_left_out() {
    let header = ProxyHeader {
        addresses: Some(addresses("192.0.2.1:50000", "10.0.0.5:993")),
        authority: Some("x".repeat(256)),
        unique_id: Some(vec![b'x'; 129]),
        ..ProxyHeader::default()
    };
    let mut wire = Vec::new();
    encode_v2(&header, &mut wire);
    assert_eq!(wire.len(), 28);
    wire.clear();
    encode_v2(&ProxyHeader::default(), &mut wire);
    assert_eq!(wire, v2(0x20, 0, b""), "without addresses it is LOCAL");
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn any_header() -> impl Strategy<Value = ProxyHeader> {
    (
        (any_address(), any_address()),
        proptest::option::of((any::<u8>(), any::<u32>())),
        proptest::option::of("[a-zé.-]{1,100}"),
        proptest::option::of(vec(any::<u8>(), 1..=UNIQUE_ID_BYTES_MAX)),
    )
        .prop_map(|((source, destination), tls, authority, unique_id)| ProxyHeader {
            addresses: Some(Addresses::new(source, destination)),
            tls: tls.map(|(client_bits, verify)| ProxyTls { client_bits, verify }),
            authority,
            alpn: None,
            unique_id,
        })
}

/// Bytes that come far: a right start, then anything.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        Just(Vec::new()),
        Just(b"PROXY ".to_vec()),
        Just(b"PROXY TCP4 1.2.3.4 ".to_vec()),
        Just(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x20".to_vec()),
        Just(b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x40".to_vec()),
        Just(ipv4_with(&[])),
    ];
    (start, vec(any::<u8>(), 0..200)).prop_map(|(start, rest)| [start, rest].concat())
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed_again(header in any_header(), behind in vec(any::<u8>(), 0..40)) {
        let mut wire = Vec::new();
        encode_v2(&header, &mut wire);
        let length = wire.len();
        for cut in 0..length {
            prop_assert_eq!(parse(&wire[..cut]).unwrap(), Progress::Incomplete);
        }
        wire.extend_from_slice(&behind);
        prop_assert_eq!(parse(&wire).unwrap(), Progress::Complete { header, consumed: length });
    }

    #[test]
    fn arbitrary_bytes_never_panic_and_never_take_back_a_word(bytes in hostile()) {
        let whole = parse(&bytes);
        if let Ok(Progress::Complete { consumed, .. }) = &whole {
            prop_assert!(*consumed <= bytes.len());
        }
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(Progress::Incomplete) => {}
                Ok(early) => prop_assert_eq!(&early, whole.as_ref().unwrap()),
                Err(early) => prop_assert_eq!(early.reason(), whole.as_ref().unwrap_err().reason()),
            }
        }
    }
}

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (dialled.unwrap(), accepted.unwrap().0)
}

fn both_versions() -> [Vec<u8>; 4] {
    [
        b"PROXY TCP4 192.0.2.1 10.0.0.5 49152 993\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        ipv4_with(&[tlv(0x02, b"mail.example.org"), tlv(0x04, &[0; 300])]),
        v2(0x20, 0, b""),
    ]
}

#[tokio::test]
async fn what_follows_the_header_stays_in_the_socket() {
    for header in both_versions() {
        let (mut balancer, mut accepted) = sockets().await;
        let behind = b"\x16\x03\x01 hello\r\nPROXY UNKNOWN\r\n";
        balancer.write_all(&[&header[..], behind].concat()).await.unwrap();
        let said = read_proxy_header(&mut accepted, DEADLINE).await.unwrap();
        assert_eq!(said, complete(&header).0);
        let mut rest = vec![0; behind.len()];
        accepted.read_exact(&mut rest).await.unwrap();
        assert_eq!(rest, behind);
    }
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_read_the_same() {
    for header in both_versions() {
        let (mut balancer, mut accepted) = sockets().await;
        balancer.set_nodelay(true).unwrap();
        let send = async {
            for byte in header.iter().chain(b"\x16rest") {
                balancer.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (said, ()) = tokio::join!(read_proxy_header(&mut accepted, DEADLINE), send);
        assert_eq!(said.unwrap(), complete(&header).0);
        let mut rest = [0; 5];
        accepted.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"\x16rest");
    }
}

async fn outcome_of(bytes: &[u8], close: bool) -> &'static str {
    let (mut balancer, mut accepted) = sockets().await;
    balancer.write_all(bytes).await.unwrap();
    if close {
        balancer.shutdown().await.unwrap();
    }
    read_proxy_header(&mut accepted, DEADLINE).await.unwrap_err().reason()
}

#[tokio::test]
async fn a_connection_without_its_header_is_refused() {
    assert_eq!(outcome_of(b"a1 LOGIN user password\r\n", false).await, "missing");
    assert_eq!(outcome_of(b"\x16", false).await, "missing", "from the first byte");
    assert_eq!(outcome_of(b"PROXY TCP4 192.0.2.1", true).await, "truncated");
    assert_eq!(outcome_of(&ipv4_with(&[])[..20], true).await, "truncated");
    assert_eq!(outcome_of(b"", true).await, "silent");
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(4000));
    assert_eq!(outcome_of(endless.as_bytes(), false).await, "too_long");
}

#[tokio::test(start_paused = true)]
async fn a_slow_header_ends_at_the_deadline() {
    let began = tokio::time::Instant::now();
    assert_eq!(outcome_of(b"PROXY TCP4 192.0.2.1 ", false).await, "timeout");
    assert_eq!(began.elapsed(), DEADLINE);
}
