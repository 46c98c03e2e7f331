use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::names::BackendId;
use crate::net::resolve::{Failure, RecordKind, Records, Resolver};
use crate::net::sockets::silent_listener;
use crate::upstream::backends::Upstreams;

const SILENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const SERVING: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// A backend whose name has a silent and a serving address, in this order.
async fn backend_at(port: u16) -> Arc<Backend> {
    let text = format!(
        "listeners: [ {{ name: c, address: \"127.0.0.1:1\", tls: none }} ]\n\
         shards:\n  s: {{ kind: primary, backends: \
         [ {{ name: b, address: \"b.example:{port}\", tls: none }} ] }}\n\
         routing: {{ lookups: [ {{ shard: s }} ] }}\nstore: {{ path: /nowhere }}\n"
    );
    let config = Config::parse(Path::new("test.yaml"), &text).unwrap();
    let metrics = Metrics::register().unwrap();
    let resolver = Resolver::with_ask(Arc::clone(&metrics), |question| {
        let records = Records {
            addresses: vec![SILENT, SERVING],
            services: Vec::new(),
            lifetime: Duration::from_secs(60),
        };
        let four = question.kind == RecordKind::A;
        Box::pin(async move { if four { Ok(records) } else { Err(Failure::Nothing) } })
    });
    let upstreams = Upstreams::build(&config, &Upstreams::default(), &resolver, &metrics).unwrap();
    assert!(resolver.resolve_now(Duration::from_secs(5)).await.is_empty());
    upstreams.backend(&BackendId::new("b")).unwrap()
}

fn hosts_in_turn(backend: &Backend) -> Vec<IpAddr> {
    backend.addresses_in_turn().iter().map(SocketAddr::ip).collect()
}

#[tokio::test]
async fn a_silent_address_leaves_time_for_the_next_which_is_remembered() {
    let (silent, _fillers) = silent_listener(SILENT);
    let port = silent.local_addr().unwrap().port();
    let _serving = TcpListener::bind((SERVING, port)).unwrap();
    let backend = backend_at(port).await;
    assert_eq!(hosts_in_turn(&backend), [SILENT, SERVING]);
    let dialled = connect(&backend, Instant::now() + Duration::from_secs(5)).await;
    assert_eq!(dialled.unwrap().peer_addr().unwrap().ip(), SERVING);
    assert_eq!(hosts_in_turn(&backend), [SERVING, SILENT]);
}

#[tokio::test]
async fn a_dial_that_had_no_time_left_makes_the_next_begin_with_the_next_address() {
    let (silent, _fillers) = silent_listener(SILENT);
    let backend = backend_at(silent.local_addr().unwrap().port()).await;
    let soon = Instant::now() + Duration::from_millis(100);
    let failure = connect(&backend, soon).await.unwrap_err();
    assert!(matches!(failure, DialError::Timeout | DialError::Io(_)), "{failure}");
    assert_eq!(hosts_in_turn(&backend), [SERVING, SILENT]);
}

#[tokio::test(start_paused = true)]
async fn addresses_share_the_time_and_none_gets_too_little_or_more_than_there_is() {
    let now = Instant::now();
    let seconds = Duration::from_secs;
    let share = |left: Duration, addresses| share_until(now, now + left, addresses) - now;
    assert_eq!(share(seconds(5), 1), seconds(5));
    assert_eq!(share(seconds(5), 2), Duration::from_millis(2_500));
    assert_eq!(share(seconds(5), 16), ADDRESS_TIME_MIN);
    assert_eq!(share(seconds(1), 16), seconds(1));
    assert_eq!(share_until(now + seconds(9), now, 2), now + seconds(9));
}
