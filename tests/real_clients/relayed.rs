//! What a scripted client sees through the proxy is, byte for byte, the server's.

use super::service::{difficult_mails, on_each_shard, resident};
use super::support::client::{Client, Response, quoted};
use super::support::{large_mail, mail, temporary_folder};

#[test]
fn a_mail_of_thirty_megabytes_passes_unchanged_both_ways() {
    const BYTES: usize = 30 << 20;
    let large = large_mail(BYTES);
    // Their order is no promise, and six such mails at once only fill the memory.
    for shard in ["north", "south", "west"] {
        let user = resident(shard, "large");
        let folder = temporary_folder("large");
        let file = folder.path().join("mail");
        std::fs::write(&file, &large).unwrap();

        // Up with and without waiting for the server's word.
        let mut proxied = user.proxied_client();
        proxied.append_all("INBOX", std::slice::from_ref(&large));
        user.starttls().curl_append(&file);
        let mut direct = user.direct_client();
        for client in [&mut proxied, &mut direct] {
            assert!(client.command_ok("SELECT INBOX").text().contains("* 2 EXISTS"));
        }
        for number in [1, 2] {
            assert!(direct.fetch_mail(number) == large, "mail {number} on {shard} is changed");
        }
        let (there, here) = (direct.command_ok("FETCH 1:2 BODY.PEEK[]"), {
            proxied.command_ok("NOOP");
            proxied.command_ok("FETCH 1:2 BODY.PEEK[]")
        });
        assert!(there.untagged == here.untagged, "the answers differ on {shard}");
        let implicit = user.implicit().curl_fetch(1);
        assert!(implicit == large, "{} of {} bytes by curl", implicit.len(), large.len());
    }
}

/// What the server answers without its times.
fn timeless(response: Response) -> (Vec<Vec<u8>>, String) {
    let status = match response.status.rsplit_once(" (") {
        Some((status, time)) if time.contains(" sec") => status.to_owned(),
        _ => response.status,
    };
    (response.untagged, status)
}

#[test]
fn the_bytes_of_every_answer_are_the_servers() {
    on_each_shard(|shard| {
        let user = resident(shard, "read");
        user.put(&difficult_mails());
        // Neither is the first to see the mails: it would be told so by RECENT.
        user.direct_client().command_ok("SELECT INBOX");
        let (mut direct, mut proxied) = (user.direct_client(), user.proxied_client());
        for command in [
            "NAMESPACE",
            "LIST \"\" *",
            "LIST (SUBSCRIBED) \"\" * RETURN (CHILDREN)",
            "LSUB \"\" *",
            "STATUS INBOX (MESSAGES UIDNEXT UIDVALIDITY UNSEEN)",
            "EXAMINE INBOX",
            "FETCH 1:* (FLAGS UID INTERNALDATE RFC822.SIZE ENVELOPE BODYSTRUCTURE)",
            "FETCH 1:* BODY.PEEK[]",
            "FETCH 1:* (BODY.PEEK[HEADER] BODY.PEEK[TEXT])",
            "FETCH 6 (BODY.PEEK[]<10.300> BINARY.PEEK[1])",
            "UID FETCH 1:3 (BODY.PEEK[HEADER.FIELDS (SUBJECT DATE)])",
            "SEARCH ALL",
            "UID SEARCH RETURN (MIN MAX COUNT) SUBJECT difficult",
            "SORT (REVERSE SUBJECT) UTF-8 ALL",
            "THREAD REFERENCES UTF-8 ALL",
            "NO-SUCH-COMMAND {x",
            "FETCH 99 FLAGS",
            "SELECT no-such-mailbox",
            "EXAMINE INBOX",
            "UNSELECT",
        ] {
            let expected = timeless(direct.command(command));
            assert_eq!(expected, timeless(proxied.command(command)), "{command}");
        }
        proxied.logout();
    });
}

#[test]
fn every_spelling_of_a_login_reaches_the_users_own_server() {
    use base64::Engine;
    on_each_shard(|shard| {
        let user = resident(shard, "spell");
        let (name, password) = (&user.user, &user.password);
        let (n, p) = (name.len(), password.len());
        let quoted = quoted(password);
        let plain =
            base64::engine::general_purpose::STANDARD.encode(format!("\0{name}\0{password}"));
        let upper = name.to_ascii_uppercase();
        // Each piece is sent when the proxy has asked for it.
        let spellings: [&[String]; 7] = [
            &[format!("a LOGIN {name} {quoted}\r\n")],
            &[format!("a LOGIN \"{name}\" {quoted}\r\n")],
            &[
                format!("a LOGIN {{{n}}}\r\n"),
                format!("{name} {{{p}}}\r\n"),
                format!("{password}\r\n"),
            ],
            &[format!("a LOGIN {{{n}+}}\r\n{name} {{{p}+}}\r\n{password}\r\n")],
            &[format!("a login {upper} {{{p}}}\r\n"), format!("{password}\r\n")],
            &[format!("a AUTHENTICATE PLAIN {plain}\r\n")],
            &["a AUTHENTICATE PLAIN\r\n".to_owned(), format!("{plain}\r\n")],
        ];
        user.put(&[mail(&format!("this is {shard}"))]);
        for pieces in spellings {
            let mut client = Client::tls(user.service.proxy.places().imaps, &user.service.tls);
            for (number, piece) in pieces.iter().enumerate() {
                if number > 0 {
                    client.expect("+ ");
                }
                client.send(piece);
            }
            let response = client.read_response("a");
            assert!(response.is_ok(), "{pieces:?}: {}", response.status);
            client.command_ok("EXAMINE INBOX");
            assert_eq!(client.fetch_mail(1), mail(&format!("this is {shard}")));
            client.logout();
        }
    });
}

/// A mail that comes while a client waits in IDLE is announced at once, through TLS.
#[test]
fn idle_wakes_through_the_proxy_and_ends_in_order() {
    on_each_shard(|shard| {
        let user = resident(shard, "recent");
        let mut waiting = user.proxied_client();
        waiting.command_ok("SELECT INBOX");
        for number in 1..=3 {
            let tag = waiting.send_command("IDLE");
            waiting.expect_eventually("+ ");
            user.put(&[mail("wake up")]);
            waiting.expect_eventually(&format!("* {number} EXISTS"));
            waiting.send("DONE\r\n");
            assert!(waiting.read_response(&tag).is_ok());
            assert_eq!(waiting.fetch_mail(number), mail("wake up"));
        }
        waiting.logout();
    });
}
