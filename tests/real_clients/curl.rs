//! curl.

use super::service::{difficult_mails, on_dovecot_and_cyrus, on_each_shard, resident};
use super::support::temporary_folder;

#[test]
fn curl_lists_searches_appends_and_fetches_the_same_bytes() {
    on_each_shard(|shard| {
        let user = resident(shard, "curl");
        let folder = temporary_folder("curl");
        let mails = difficult_mails();
        // By turns over both kinds of TLS, each mail fetched back in every way.
        for (number, text) in (1_u32..).zip(&mails) {
            let file = folder.path().join("mail");
            std::fs::write(&file, text).unwrap();
            user.proxied()[text.len() % 2].curl_append(&file);
            let [implicit, starttls] = user.proxied().map(|way| way.curl_fetch(number));
            assert!(implicit == *text, "mail {number} on {shard} came back changed");
            assert_eq!((&starttls, &user.direct().curl_fetch(number)), (text, text));
        }
        for (path, arguments) in [
            ("", &[][..]),
            ("INBOX?SUBJECT%20difficult", &[]),
            ("INBOX", &["--request", "FETCH 1:* (UID FLAGS RFC822.SIZE ENVELOPE)"]),
            ("INBOX;UID=2", &[]),
            ("INBOX;MAILINDEX=3;SECTION=HEADER.FIELDS%20(SUBJECT)", &[]),
        ] {
            let direct = user.direct().curl_get(path, arguments);
            assert!(!direct.is_empty(), "{path}");
            for way in user.proxied() {
                let proxied = way.curl_get(path, arguments);
                assert!(proxied == direct, "{path}: {}", String::from_utf8_lossy(&proxied));
            }
        }
    });
}

#[test]
fn curl_flags_and_moves() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "curl-moves");
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let [implicit, starttls] = user.proxied();
        let flagged =
            implicit.curl_get("INBOX", &["--request", "STORE 2 +FLAGS (\\Flagged \\Answered)"]);
        let flagged = String::from_utf8(flagged).unwrap();
        assert!(flagged.contains("* 2 FETCH ("), "{flagged}");
        starttls.curl_get("INBOX", &["--request", "UID MOVE 3 Archive"]);
        implicit.curl_get("INBOX", &["--request", "UID MOVE 1,5 Archive"]);
        let archived = [2, 0, 4].map(|number: usize| (&mails[number][..], ""));
        user.assert_holds("Archive", &archived);
        let left = [(1, "\\Flagged \\Answered"), (3, ""), (5, "")];
        user.assert_holds("INBOX", &left.map(|(number, flags)| (&mails[number][..], flags)));
    });
}
