//! imapfilter.

use std::process::Command;

use super::service::{contents, difficult_mails, files, on_dovecot_and_cyrus, resident, wake_up};
use super::support::process::Process;
use super::support::programs::Security;
use super::support::temporary_folder;

#[test]
fn imapfilter_does_all_that_it_can() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "imapfilter");
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        let folder = temporary_folder("imapfilter");
        let at = folder.path();
        let mut mails = difficult_mails();
        files(at, &mails);
        std::fs::create_dir(at.join("fetched")).unwrap();
        let script = at.join("config.lua");
        std::fs::write(&script, include_str!("imapfilter.lua")).unwrap();
        let mut command = Command::new("imapfilter");
        command.arg("-t").arg(way.security.ca().unwrap()).arg("-c").arg(&script);
        command.env("HOME", at).env("TEST_PORT", way.address.port().to_string());
        command.env("TEST_USER", way.user).env("TEST_PASSWORD", way.password);
        // Without it STARTTLS is used where it is listed, and it always is.
        if matches!(way.security, Security::Implicit { .. }) {
            command.env("TEST_SSL", "auto");
        }
        let mut imapfilter = Process::start("imapfilter", &mut command, &at.join("log"));
        user.wake(&mut imapfilter, "idling");
        assert_eq!(imapfilter.wait_for_end(), 0, "{}", imapfilter.log());
        assert!(imapfilter.log().contains("\nidle\n"), "{}", imapfilter.log());

        let woken = wake_up();
        let mut left: Vec<(&[u8], &str)> = mails[1..].iter().map(|text| (&text[..], "")).collect();
        left[0].1 = "\\Answered kept";
        left.push((&woken, ""));
        user.assert_holds("INBOX", &left);
        user.assert_holds("Archive", &[(&mails[0], "")]);
        mails.sort();
        assert!(contents(&at.join("fetched")) == mails, "fetched mails differ");
    });
}
