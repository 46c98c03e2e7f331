//! The test equipment works by itself, without the proxy: real servers start, hold mail
//! and check passwords; scripted peers see exact bytes.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::backend::{Backend, Opening, fault};
use support::client::{Client, is_refused};
use support::cyrus::Cyrus;
use support::dovecot::{Dovecot, Settings};
use support::ordinary::Ordinary;
use support::pointsman::Metrics;
use support::process::{Process, run};
use support::programs::Account;
use support::tls::Authority;
use support::{Stopwatch, large_mail, mail, temporary_folder, wait_until};

const ANNA: (&str, &str) = ("anna", "anna-secret");
const BERT: (&str, &str) = ("bert@example.test", "bert \"quoted\" secret");

#[test]
fn dovecot_serves_clear_text_tls_and_starttls_and_checks_passwords() {
    let authority = Authority::new();
    let dovecot = Dovecot::start(&authority, &[ANNA, BERT]);
    let tls = authority.client_config();

    let mut clear = Client::clear(dovecot.imap());
    let refused = clear.try_login(ANNA.0, "wrong");
    assert!(refused.status.starts_with("NO [AUTHENTICATIONFAILED]"), "{}", refused.status);
    clear.login(ANNA.0, ANNA.1);
    clear.append("INBOX", &mail("first"));

    let mut implicit = Client::tls(dovecot.imaps(), &tls);
    implicit.login(ANNA.0, ANNA.1);
    assert!(implicit.command_ok("SELECT INBOX").text().contains("* 1 EXISTS"));
    assert_eq!(implicit.fetch_mail(1), mail("first"));
    wait_until("both are known", || (dovecot.who() == ["anna", "anna"]).then_some(()));
    implicit.logout();

    let mut starttls = Client::clear(dovecot.imap());
    starttls.starttls("localhost", &tls);
    assert!(starttls.try_authenticate_plain(BERT.0, BERT.1).is_ok());
    dovecot.wait_for_log("Login: user=<bert@example.test>");
    starttls.logout();
}

#[test]
fn dovecot_holds_two_thousand_mails_and_a_thirty_megabyte_one() {
    let dovecot = Dovecot::start(&Authority::new(), &[ANNA]);
    let mails: Vec<_> = (1..=2_000).map(|number| mail(&format!("number {number}"))).collect();
    let start = Stopwatch::start();
    dovecot.put(ANNA.0, ANNA.1, "INBOX", &mails);
    println!("2,000 mails in {:?}", start.elapsed());

    let mut client = Client::clear(dovecot.imap());
    client.login(ANNA.0, ANNA.1);
    assert!(client.command_ok("SELECT INBOX").text().contains("* 2000 EXISTS"));
    assert_eq!(client.fetch_mail(1_234), mail("number 1234"));
    let large = large_mail(30 << 20);
    client.append("INBOX", &large);
    assert!(client.fetch_mail(2_001) == large, "the large mail came back changed");
}

#[test]
fn dovecot_reads_proxy_headers_and_takes_the_forwarded_address_from_id() {
    let dovecot = Settings::new(&Authority::new(), &[ANNA]).haproxy().start();
    let mut client = Client::connect(dovecot.haproxy()).unwrap();
    client.send("PROXY TCP4 192.0.2.77 127.0.0.1 40000 143\r\n");
    client.expect("* OK");
    client.login(ANNA.0, ANNA.1);
    dovecot.wait_for_log("rip=192.0.2.77");

    let mut client = Client::clear(dovecot.imap());
    client.command_ok("ID (\"x-originating-ip\" \"192.0.2.88\" \"x-session-id\" \"s123\")");
    client.login(ANNA.0, ANNA.1);
    dovecot.wait_for_log("rip=192.0.2.88");
}

#[test]
fn two_dovecots_share_one_storage_and_one_comes_back_after_a_kill() {
    let authority = Authority::new();
    let storage = temporary_folder("storage");
    let shared = || Settings::new(&authority, &[ANNA]).mail_folder(storage.path());
    let (mut first, second) = (shared().start(), shared().start());
    first.put(ANNA.0, ANNA.1, "INBOX", &[mail("seen by both")]);
    first.kill();
    assert!(is_refused(first.imap()));

    let mut client = Client::clear(second.imap());
    client.login(ANNA.0, ANNA.1);
    client.command_ok("SELECT INBOX");
    assert_eq!(client.fetch_mail(1), mail("seen by both"));

    first.restart();
    Client::clear(first.imap()).login(ANNA.0, ANNA.1);
}

#[test]
fn cyrus_holds_mail_and_checks_passwords() {
    let cyrus = Cyrus::start(&Authority::new(), &[ANNA, BERT]);
    let mut client = Client::connect(cyrus.imap()).unwrap();
    let greeting = client.expect("* OK");
    assert!(greeting.contains("Cyrus IMAP 3.6"), "{greeting}");
    assert!(client.try_login(ANNA.0, "wrong").status.starts_with("NO "));
    client.login(ANNA.0, ANNA.1);

    let mails: Vec<_> = (1..=200).map(|number| mail(&format!("number {number}"))).collect();
    cyrus.put(ANNA.0, ANNA.1, "INBOX", &mails);
    assert!(client.command_ok("SELECT INBOX").text().contains("* 200 EXISTS"));
    assert_eq!(client.fetch_mail(123), mail("number 123"));

    let mut other = Client::clear(cyrus.imap());
    assert!(other.try_authenticate_plain(BERT.0, BERT.1).is_ok());
    assert!(other.command_ok("SELECT INBOX").text().contains("* 0 EXISTS"));
}

/// IDLE wakes by `idled`, so a waiting client hears of a new mail.
#[test]
fn cyrus_wakes_clients_in_idle() {
    let cyrus = Cyrus::start(&Authority::new(), &[ANNA]);
    let mut client = Client::clear(cyrus.imap());
    client.login(ANNA.0, ANNA.1);
    client.command_ok("SELECT INBOX");
    let tag = client.send_command("IDLE");
    client.expect("+ ");
    cyrus.put(ANNA.0, ANNA.1, "INBOX", &[mail("wake up")]);
    client.expect_eventually("* 1 EXISTS");
    client.send("DONE\r\n");
    assert!(client.read_response(&tag).is_ok());
}

#[test]
fn real_mail_programs_reach_both_servers() {
    let (dovecot, cyrus) =
        (Dovecot::start(&Authority::new(), &[ANNA]), Cyrus::start(&Authority::new(), &[ANNA]));
    for address in [dovecot.imap(), cyrus.imap()] {
        let anna = Account::clear(address, ANNA.0, ANNA.1);
        let folder = temporary_folder("programs");

        let printed = anna.python(
            "c.append('INBOX', None, None, b'Subject: first\\r\\n\\r\\nbody\\r\\n')\n\
             print(c.select('INBOX')[1][0].decode())\n\
             print(c.fetch('1', '(BODY.PEEK[TEXT])')[1][0][1].decode())",
        );
        assert_eq!(printed, "1\nbody\r\n\n");

        let file = folder.path().join("mail");
        std::fs::write(&file, mail("second")).unwrap();
        anna.curl_append(&file);
        assert_eq!(anna.curl_fetch(2), mail("second"));

        anna.mbsync(folder.path(), false);
        let new = std::fs::read_dir(folder.path().join("INBOX/new")).unwrap().count();
        let seen = std::fs::read_dir(folder.path().join("INBOX/cur")).unwrap().count();
        assert_eq!(new + seen, 2);

        let copied = String::from_utf8(anna.mutt_copy(folder.path())).unwrap();
        assert!(
            copied.contains("Subject: first") && copied.contains("Subject: second"),
            "{copied}"
        );
    }
}

#[test]
fn curl_verifies_the_certificate_of_dovecot() {
    let authority = Authority::new();
    let dovecot = Dovecot::start(&authority, &[ANNA]);
    dovecot.put(ANNA.0, ANNA.1, "INBOX", &[mail("by TLS")]);
    let ca = dovecot.folder().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let url = format!("imaps://localhost:{}/INBOX;MAILINDEX=1", dovecot.imaps().port());
    let text = run(Command::new("curl")
        .args(["-sS", "--max-time", "60", "-u", "anna:anna-secret", "--cacert"])
        .arg(&ca)
        .arg(url));
    assert_eq!(text, mail("by TLS"));
}

#[test]
fn a_scripted_backend_records_exact_bytes_and_names_faults() {
    let backend = Backend::start(Opening::clear(), |peer| {
        peer.send("* OK scripted\r\n")?;
        peer.answer("NOOP", "* 3 EXISTS\r\n{tag} OK done\r\n")?;
        if peer.exactly(4)? != b"\0raw" {
            return Err(fault("not the raw bytes".to_owned()));
        }
        peer.answer("LOGOUT", "{tag} OK\r\n")
    });
    let mut client = Client::clear(backend.address());
    assert_eq!(client.command("noop").text(), "* 3 EXISTS\r\n");
    client.send(b"\0raw");
    client.send("x SELECT INBOX\r\n");
    client.expect_end();
    assert_eq!(backend.received(0), b"t1 noop\r\n\0rawx SELECT INBOX\r\n");
    assert_eq!(backend.faults(), ["connection 0: expected \"LOGOUT\", got \"x SELECT INBOX\""]);
    backend.wait_until_empty();
    assert!(backend.has_ended(0));
}

#[test]
fn a_scripted_backend_captures_both_forms_of_the_proxy_header() {
    let backend = Ordinary::new().opening(Opening::clear().with_proxy_header()).start();
    let v1 = b"PROXY TCP6 2001:db8::1 ::1 4000 143\r\n";
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x7f\0\0\x01\x10\0\0\x8f";
    for (number, header) in [&v1[..], v2].into_iter().enumerate() {
        let mut client = Client::connect(backend.address()).unwrap();
        client.send_byte_by_byte(header);
        client.expect("* OK");
        client.login("u", "p");
        assert_eq!(backend.proxy_header(number), header);
        assert_eq!(backend.received(number), b"t1 LOGIN \"u\" \"p\"\r\n");
    }
    backend.assert_no_faults();
}

#[test]
fn an_ordinary_backend_takes_every_form_of_login() {
    let authority = Authority::new();
    let config = authority.issue(&["localhost"]).server_config();
    let clear = Backend::ordinary();
    let starttls = Ordinary::new().opening(Opening::starttls(config.clone())).start();
    let implicit = Ordinary::new().opening(Opening::implicit(config)).start();

    let mut client = Client::clear(clear.address());
    client.send("a LOGIN {4}\r\n");
    client.expect("+ ");
    client.send("anna {3+}\r\np w\r\n");
    assert!(client.read_response("a").status.starts_with("OK [CAPABILITY IMAP4rev1"));

    let mut client = Client::clear(starttls.address());
    client.starttls("localhost", &authority.client_config());
    client.send("b AUTHENTICATE PLAIN\r\n");
    client.expect("+ ");
    client.send("AGJlcnQAc2VjcmV0\r\n");
    assert!(client.read_response("b").is_ok());

    let mut client = Client::tls(implicit.address(), &authority.client_config());
    assert!(client.try_authenticate_plain("clara", "secret").is_ok());
    assert_eq!(implicit.alpn(0), Some(b"imap".to_vec()));

    assert_eq!(
        (clear.users(), clear.logins()[0].password.clone()),
        (vec!["anna".into()], b"p w".to_vec())
    );
    assert_eq!((starttls.users(), implicit.users()), (vec!["bert".into()], vec!["clara".into()]));
    assert_eq!(starttls.logins()[0].mechanism, "PLAIN");
}

#[test]
fn an_ordinary_backend_serves_mail_idle_and_delays() {
    let ordinary = Ordinary::new().delay("NOOP", Duration::from_millis(120));
    let appended = ordinary.appended();
    let backend = ordinary.start();
    let mut client = Client::clear(backend.address());
    client.login("u", "p");
    client.command_ok("SELECT INBOX");
    assert_eq!(client.fetch_mail(2), mail("two"));
    client.append_all("INBOX", &[mail("three"), mail("four")]);
    assert_eq!(*appended.lock().unwrap(), [mail("three"), mail("four")]);

    let start = Stopwatch::start();
    client.command_ok("NOOP");
    assert!(start.elapsed() >= Duration::from_millis(120));

    let tag = client.send_command("IDLE");
    client.expect("+ ");
    wait_until("the backend idles", || (backend.idling() == 1).then_some(()));
    backend.push("* 3 EXISTS\r\n");
    client.expect("* 3 EXISTS");
    client.send("DONE\r\n");
    assert!(client.read_response(&tag).is_ok());
    client.logout();
    backend.assert_no_faults();
}

#[test]
fn a_stopped_backend_refuses_and_comes_back_on_its_port() {
    let mut backend = Backend::ordinary();
    let port = backend.port();
    let mut client = Client::clear(backend.address());
    backend.stop();
    client.expect_end();
    assert!(is_refused(backend.address()));
    let again = Ordinary::new().verdict(|_, _| "NO [INUSE] later".to_owned()).start_at(port);
    let refused = Client::clear(again.address()).try_login("u", "p");
    assert_eq!(refused.status, "NO [INUSE] later");
}

#[test]
fn a_dropped_process_takes_its_whole_group_along() {
    let folder = temporary_folder("group");
    let log = folder.path().join("log");
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' TERM; sleep 1000 & echo $!; exec sleep 1001"]);
    let mut process = Process::start("a stubborn group", &mut shell, &log);
    process.wait_for_log("\n");
    let child: u32 = process.log().trim().parse().unwrap();
    let own = process.id();
    process.kill();
    for id in [own, child] {
        wait_until("the process is gone", || is_gone(id).then_some(()));
    }
}

#[test]
fn a_killed_test_process_takes_its_servers_along() {
    let folder = temporary_folder("killed");
    let note = folder.path().join("pid");
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "a_server_is_held_until_this_process_is_killed"])
        .env("SELFTEST_FOLDER", folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let server: u32 =
        wait_until("the server has started", || std::fs::read_to_string(&note).ok()?.parse().ok());
    assert!(!is_gone(server));
    test.kill().unwrap();
    test.wait().unwrap();
    wait_until("the server is gone", || is_gone(server).then_some(()));
}

#[test]
#[ignore = "runs inside a_killed_test_process_takes_its_servers_along"]
fn a_server_is_held_until_this_process_is_killed() {
    let folder = PathBuf::from(std::env::var_os("SELFTEST_FOLDER").unwrap());
    let log = folder.join("log");
    let mut server = Process::start("sleeper", Command::new("sleep").arg("1000"), &log);
    std::fs::write(folder.join("pid"), server.id().to_string()).unwrap();
    server.wait_for_end();
}

/// Gone, or dead and only waiting for init to take notice.
fn is_gone(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    status.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.starts_with(" Z"))
}

#[test]
fn metrics_are_summed_by_labels() {
    let metrics = Metrics::parse(
        "# HELP x y\nx{command=\"fetch\",shard=\"north\"} 2\n\
         x{command=\"noop\",shard=\"north\"} 3\nx{command=\"fetch\",shard=\"south\"} 4\nxy 9\n",
    );
    assert_eq!(metrics.sum("x", &[("shard", "north")]).to_string(), "5");
    assert_eq!(metrics.sum("x", &[("command", "fetch"), ("shard", "south")]).to_string(), "4");
    assert_eq!((metrics.count("x", &[]), metrics.count("xy", &[("a", "b")])), (3, 0));
}

#[test]
fn http_answers_are_read_by_status_and_body() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut socket, _): (TcpStream, _) = listener.accept().unwrap();
        let mut wire = support::wire::Wire::new(socket.try_clone().unwrap()).unwrap();
        while wire.read_line().unwrap() != b"\r\n" {}
        socket.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").unwrap();
    });
    let answer = support::http::fetch(address, "/readyz").unwrap();
    server.join().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (503, "busy"));
}
