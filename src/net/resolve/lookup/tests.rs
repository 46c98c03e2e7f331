use std::sync::Mutex;

use super::*;

/// What the servers say now; a question that is not there is never answered.
#[derive(Default)]
struct Zone(Mutex<HashMap<Question, Result<Records, Failure>>>);

fn failed() -> Failure {
    Failure::Failed("server failure".to_owned())
}

impl Zone {
    fn say(&self, name: &str, kind: RecordKind, answer: Result<Records, Failure>) {
        self.0.lock().unwrap().insert(Question::new(name, kind), answer);
    }

    /// Both families of a host, from addresses in text.
    fn host(&self, name: &str, six: &[&str], four: &[&str], lifetime: u64) {
        for (kind, addresses) in [(RecordKind::Aaaa, six), (RecordKind::A, four)] {
            self.say(name, kind, of_addresses(addresses, lifetime));
        }
    }

    /// SRV records, as priority, weight, port, target.
    fn service(&self, name: &str, services: &[(u16, u16, u16, &str)], lifetime: u64) {
        let service = |(priority, weight, port, target): &(u16, u16, u16, &str)| Service {
            priority: *priority,
            weight: *weight,
            port: *port,
            target: (*target).to_owned(),
        };
        let services = services.iter().map(service).collect();
        let lifetime = Duration::from_secs(lifetime);
        let records = Records { addresses: Vec::new(), services, lifetime };
        self.say(name, RecordKind::Srv, Ok(records));
    }
}

fn of_addresses(addresses: &[&str], lifetime: u64) -> Result<Records, Failure> {
    let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    if addresses.is_empty() {
        return Err(Failure::Nothing);
    }
    let lifetime = Duration::from_secs(lifetime);
    Ok(Records { addresses, services: Vec::new(), lifetime })
}

fn client(zone: &Arc<Zone>) -> Arc<Client> {
    let zone = Arc::clone(zone);
    Arc::new(Client::with_ask(move |question| {
        let answer = zone.0.lock().unwrap().get(&question).cloned();
        Box::pin(async move {
            match answer {
                Some(answer) => answer,
                None => std::future::pending().await,
            }
        })
    }))
}

fn host(name: &str, port: u16) -> BackendPlace {
    BackendPlace::Host { host: name.to_owned(), port }
}

fn shown(found: &Found) -> Vec<String> {
    found.addresses.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn families_take_turns_ipv6_first_each_in_its_own_order() {
    let zone = Arc::new(Zone::default());
    zone.host("b.", &["2001:db8::2", "2001:db8::1"], &["192.0.2.3", "192.0.2.1", "192.0.2.2"], 60);
    let found = Lookups::default().look_up(&client(&zone), &host("b", 143)).await.unwrap();
    let expected = [
        "[2001:db8::2]:143",
        "192.0.2.3:143",
        "[2001:db8::1]:143",
        "192.0.2.1:143",
        "192.0.2.2:143",
    ];
    assert_eq!(shown(&found), expected);
}

#[tokio::test]
async fn doubles_are_left_out_mapped_addresses_are_ipv4_and_the_number_is_bounded() {
    let zone = Arc::new(Zone::default());
    let many: Vec<String> = (1..=40).map(|last| format!("192.0.2.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    zone.host("b.", &["::ffff:192.0.2.1"], &many, 60);
    let found = Lookups::default().look_up(&client(&zone), &host("b", 1)).await.unwrap();
    let expected: Vec<String> = many[..ADDRESSES_MAX].iter().map(|a| format!("{a}:1")).collect();
    assert_eq!(shown(&found), expected);
}

#[tokio::test]
async fn a_family_that_fails_takes_nothing_away_and_one_that_ended_is_gone() {
    let zone = Arc::new(Zone::default());
    let (client, place) = (client(&zone), host("b", 1));
    let mut lookups = Lookups::default();
    zone.say("b.", RecordKind::Aaaa, Err(Failure::Timeout));
    zone.say("b.", RecordKind::A, of_addresses(&["192.0.2.1"], 60));
    let found = lookups.look_up(&client, &place).await.unwrap();
    assert_eq!(
        (shown(&found), found.missing),
        (vec!["192.0.2.1:1".into()], Some(Failure::Timeout))
    );

    zone.host("b.", &["2001:db8::1"], &["192.0.2.1"], 60);
    let both = lookups.look_up(&client, &place).await.unwrap();
    assert_eq!(shown(&both), ["[2001:db8::1]:1", "192.0.2.1:1"]);

    for _ in 0..2 {
        zone.say("b.", RecordKind::Aaaa, Err(failed()));
        zone.say("b.", RecordKind::A, of_addresses(&["192.0.2.2"], 60));
        let found = lookups.look_up(&client, &place).await.unwrap();
        assert_eq!(shown(&found), ["[2001:db8::1]:1", "192.0.2.2:1"]);
        assert_eq!(found.missing, Some(failed()));
    }

    zone.host("b.", &[], &["192.0.2.2"], 60);
    let found = lookups.look_up(&client, &place).await.unwrap();
    assert_eq!((shown(&found), found.missing), (vec!["192.0.2.2:1".into()], None));
    zone.say("b.", RecordKind::Aaaa, Err(failed()));
    assert_eq!(shown(&lookups.look_up(&client, &place).await.unwrap()), ["192.0.2.2:1"]);
}

#[tokio::test]
async fn a_lookup_without_any_answer_fails_with_what_says_least() {
    let zone = Arc::new(Zone::default());
    let (client, place) = (client(&zone), host("b", 1));
    let nothing = Failure::Nothing;
    let cases = [
        (nothing.clone(), nothing.clone(), nothing.clone()),
        (failed(), nothing.clone(), failed()),
        (nothing, Failure::Timeout, Failure::Timeout),
        (failed(), Failure::Timeout, Failure::Timeout),
    ];
    for (six, four, expected) in cases {
        zone.say("b.", RecordKind::Aaaa, Err(six));
        zone.say("b.", RecordKind::A, Err(four));
        assert_eq!(Lookups::default().look_up(&client, &place).await, Err(expected));
    }
}

#[tokio::test]
async fn srv_targets_go_by_priority_then_weight_each_with_its_port() {
    let zone = Arc::new(Zone::default());
    let name = "_imap._tcp.x.org";
    let services = [
        (20, 100, 143, "late."),
        (10, 1, 144, "light."),
        (10, 9, 145, "heavy."),
        (10, 9, 146, "heavy."),
        (10, 9, 0, "nowhere."),
        (5, 0, 147, "gone."),
    ];
    zone.service(name, &services, 300);
    zone.host("late.", &[], &["192.0.2.1"], 300);
    zone.host("light.", &[], &["192.0.2.2"], 40);
    zone.host("heavy.", &["2001:db8::3"], &["192.0.2.3"], 50);
    zone.host("gone.", &[], &[], 300);
    let place = BackendPlace::Service(name.to_owned());
    let found = Lookups::default().look_up(&client(&zone), &place).await.unwrap();
    let expected = [
        "[2001:db8::3]:145",
        "192.0.2.3:145",
        "[2001:db8::3]:146",
        "192.0.2.3:146",
        "192.0.2.2:144",
        "192.0.2.1:143",
    ];
    assert_eq!(shown(&found), expected);
    assert_eq!((found.lifetime, found.missing), (Duration::from_secs(40), None));
}

#[tokio::test]
async fn a_target_that_fails_takes_nothing_away() {
    let zone = Arc::new(Zone::default());
    let place = BackendPlace::Service("_imap._tcp.x.org".to_owned());
    let client = client(&zone);
    let mut lookups = Lookups::default();
    zone.service("_imap._tcp.x.org", &[(1, 0, 143, "one."), (2, 0, 143, "two.")], 60);
    zone.host("one.", &[], &["192.0.2.1"], 60);
    zone.host("two.", &[], &["192.0.2.2"], 60);
    let whole = lookups.look_up(&client, &place).await.unwrap();
    for kind in [RecordKind::A, RecordKind::Aaaa] {
        zone.say("one.", kind, Err(Failure::Timeout));
    }
    zone.host("two.", &[], &["192.0.2.3"], 60);
    let found = lookups.look_up(&client, &place).await.unwrap();
    assert_eq!(shown(&whole), ["192.0.2.1:143", "192.0.2.2:143"]);
    assert_eq!(shown(&found), ["192.0.2.1:143", "192.0.2.3:143"]);
    assert_eq!(found.missing, Some(Failure::Timeout));

    zone.say("_imap._tcp.x.org", RecordKind::Srv, Err(Failure::Nothing));
    assert_eq!(lookups.look_up(&client, &place).await, Err(Failure::Nothing));
}

#[tokio::test]
async fn the_root_as_target_says_that_there_is_no_service() {
    let zone = Arc::new(Zone::default());
    let place = BackendPlace::Service("_imap._tcp.x.org".to_owned());
    zone.service("_imap._tcp.x.org", &[(0, 0, 0, ".")], 77);
    let found = Lookups::default().look_up(&client(&zone), &place).await.unwrap();
    assert_eq!((shown(&found), found.lifetime), (Vec::new(), Duration::from_secs(77)));

    zone.service("_imap._tcp.x.org", &[(0, 0, 143, "one.")], 77);
    zone.host("one.", &[], &[], 60);
    let found = Lookups::default().look_up(&client(&zone), &place).await;
    assert_eq!(found, Err(Failure::Nothing));
}
