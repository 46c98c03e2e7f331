//! mbsync: whole mailboxes, and changes both ways.

use std::collections::BTreeMap;
use std::path::Path;

use super::service::{on_each_shard, resident, with_bare_line_ends};
use super::support::{mail, temporary_folder};

/// The mails in a Maildir by UID. mbsync turns line ends into LF and adds a line of its
/// own to the head.
fn maildir(folder: &Path) -> BTreeMap<u32, Vec<u8>> {
    let mut mails = BTreeMap::new();
    for part in ["new", "cur"] {
        for entry in std::fs::read_dir(folder.join("INBOX").join(part)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let (_, uid) = name.split_once(",U=").unwrap();
            let uid = uid.split(':').next().unwrap().parse().unwrap();
            mails.insert(uid, without_tuid(&std::fs::read(&path).unwrap()));
        }
    }
    mails
}

fn without_tuid(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"X-TUID: ")).flatten().copied().collect()
}

#[test]
fn mbsync_brings_a_mailbox_of_two_thousand_mails_file_by_file_as_directly() {
    on_each_shard(|shard| {
        let user = resident(shard, "pull");
        let words = |number| format!("number {number} {}", "and more ".repeat(number % 40));
        let mails: Vec<_> = (0..2_000_usize).map(|number| mail(&words(number))).collect();
        user.direct_client().append_at_once("INBOX", &mails);
        let (through, beside) = (temporary_folder("through"), temporary_folder("beside"));
        if shard == "south" {
            user.starttls().mbsync(through.path(), false);
        } else {
            user.implicit().mbsync(through.path(), false);
        }
        user.direct().mbsync(beside.path(), false);

        let (through, beside) = (maildir(through.path()), maildir(beside.path()));
        assert_eq!((through.len(), beside.len()), (2_000, 2_000));
        assert!(through == beside, "the mails differ");
        assert!(through.into_values().eq(mails.iter().map(|text| with_bare_line_ends(text))));
    });
}

#[test]
fn mbsync_pushes_new_mails_and_flags_and_brings_those_of_others() {
    on_each_shard(|shard| {
        let user = resident(shard, "sync");
        user.put(&[mail("one"), mail("two")]);
        let folder = temporary_folder("sync");
        user.implicit().mbsync(folder.path(), true);
        assert_eq!(maildir(folder.path()).len(), 2);

        let inbox = folder.path().join("INBOX");
        let new = with_bare_line_ends(&mail("three, written here"));
        std::fs::write(inbox.join("cur/1000000000.1_1.here:2,FS"), new).unwrap();
        user.put(&[mail("four, from elsewhere")]);
        user.starttls().mbsync(folder.path(), true);

        let mut client = user.direct_client();
        let selected = client.command_ok("SELECT INBOX").text();
        assert!(selected.contains("* 4 EXISTS"), "{selected}");
        let found = client.command_ok("SEARCH FLAGGED SEEN SUBJECT \"written here\"").text();
        let number = found.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let pushed = without_tuid(&client.fetch_mail(number));
        assert_eq!(pushed, mail("three, written here"));
        let here = maildir(folder.path());
        assert!(here.values().any(|text| text.ends_with(b"\nfour, from elsewhere\n")));

        client.command_ok("STORE 1 +FLAGS.SILENT (\\Answered)");
        user.implicit().mbsync(folder.path(), true);
        let names: Vec<_> = std::fs::read_dir(inbox.join("cur"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert!(names.iter().any(|name| name.ends_with(":2,R")), "{names:?}");
    });
}
