use super::*;

fn by_system(resolv_conf: &str) -> Client {
    let resolv_conf = Some(resolv_conf.as_bytes().to_vec());
    Client::new(Settings { dns: Dns::default(), resolv_conf }).unwrap()
}

fn servers(resolv_conf: &str) -> Vec<String> {
    let plan = Plan::of_system(resolv_conf.as_bytes());
    plan.servers.iter().map(ToString::to_string).collect()
}

#[test]
fn the_system_says_which_servers_are_asked_and_else_this_machine_is() {
    let four = "nameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.3\n\
                nameserver 192.0.2.4\n";
    assert_eq!(servers(four), ["192.0.2.1:53", "[2001:db8::1]:53", "192.0.2.3:53"]);
    for none in ["", "search example.org\n", "nonsense"] {
        assert_eq!(servers(none), ["127.0.0.1:53"], "{none:?}");
    }
}

#[test]
fn names_are_completed_as_resolv_conf_says() {
    let search = "nameserver 192.0.2.1\nsearch a.org b.org\n";
    let one = by_system(search);
    assert_eq!(one.candidates("imap1"), ["imap1.a.org.", "imap1.b.org.", "imap1."]);
    assert_eq!(one.candidates("imap1.x"), ["imap1.x.", "imap1.x.a.org.", "imap1.x.b.org."]);
    assert_eq!(one.candidates("imap1."), ["imap1."]);
    assert_eq!(one.candidates("LocalHost"), ["LocalHost."]);
    let two = by_system(&format!("{search}options ndots:2\n"));
    assert_eq!(two.candidates("imap1.x"), ["imap1.x.a.org.", "imap1.x.b.org.", "imap1.x."]);
}

#[test]
fn with_servers_of_the_configuration_names_are_as_written() {
    let dns = Dns { servers: vec!["192.0.2.53:53".parse().unwrap()], ..Dns::default() };
    let settings = Settings::read(&dns);
    let client = Client::new(settings.clone()).unwrap();
    assert_eq!(client.candidates("imap1"), ["imap1."]);
    assert!(client.is_made_from(&settings));
    assert!(!client.is_made_from(&Settings::read(&Dns::default())));
}

#[tokio::test]
async fn the_hosts_file_is_read_again_when_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hosts");
    let hosts = HostsFile::new(&path);
    assert_eq!(hosts.addresses("imap1").await, None);
    std::fs::write(&path, "192.0.2.1 imap1.x.org Imap1 # first\n2001:db8::1 imap1\n").unwrap();
    let both: Vec<IpAddr> = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).to_vec();
    assert_eq!(hosts.addresses("IMAP1").await, Some(both));
    assert_eq!(hosts.addresses("imap2").await, None);
    std::fs::write(&path, "192.0.2.22 imap1\n").unwrap();
    assert_eq!(hosts.addresses("imap1.").await, Some(vec!["192.0.2.22".parse().unwrap()]));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(hosts.addresses("imap1").await, None);
}
