//! Programs that a person types at: s-nail in batch mode, alpine in a terminal of
//! `expect`. Neither waits in IDLE.

use std::path::Path;
use std::process::{Command, Stdio};

use super::service::{
    Resident, difficult_mails, on_dovecot_and_cyrus, resident, with_bare_line_ends,
};
use super::support::process::{output_with, run};
use super::support::programs::{Account, Security};
use super::support::{mail, temporary_folder};

/// What both leave behind in INBOX: the third mail has gone, the second is flagged.
fn assert_moved_and_flagged(user: &Resident, mails: &[Vec<u8>]) {
    let left: Vec<(&[u8], &str)> = (0..6)
        .filter(|number| *number != 2)
        .map(|number| (&mails[number][..], if number == 1 { "\\Flagged" } else { "" }))
        .collect();
    user.assert_holds("INBOX", &left);
}

/// The folders, a search, a mail written to a file, a flag, a move; then a local file, whose mail
/// goes to the other folder.
const S_NAIL_COMMANDS: &str = "\
folders
from @subject@\"difficult 3\"
copy 2 mbox
flag 2
move 3 +Archive
file letters
copy 1 +Archive
quit
";

fn s_nail_settings(way: &Account<'_>) -> String {
    let starttls = match way.security {
        Security::StartTls { .. } => "set imap-use-starttls",
        _ => "",
    };
    format!(
        "\
set noheader crt=0 imap-auth=login imap-cache=
set tls-ca-file={ca} tls-ca-no-defaults tls-verify=strict
set folder={scheme}://{user}@localhost:{port}/
set password-{user}@localhost:{port}={password}
{starttls}
",
        ca = way.security.ca().unwrap().display(),
        scheme = way.scheme(),
        user = way.user,
        port = way.address.port(),
        password = way.password,
    )
}

fn s_nail(way: &Account<'_>, folder: &Path) -> String {
    let (rc, commands) = (folder.join("mailrc"), folder.join("commands"));
    std::fs::write(&rc, s_nail_settings(way)).unwrap();
    std::fs::write(&commands, S_NAIL_COMMANDS).unwrap();
    let url = format!(
        "{}://{}:{}@localhost:{}/INBOX",
        way.scheme(),
        way.user,
        way.password,
        way.address.port()
    );
    let input = Stdio::from(std::fs::File::open(&commands).unwrap());
    let mut command = Command::new("s-nail");
    command
        .args(["-:u", "-#", "-f", &url])
        .env("MAILRC", &rc)
        .env("HOME", folder)
        .env("TERM", "dumb")
        .current_dir(folder);
    let output = output_with(&mut command, input);
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn s_nail_lists_finds_copies_flags_moves_and_appends() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "s-nail");
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        let folder = temporary_folder("s-nail");
        let letter = mail("written here");
        let head = b"From sender@example.test Mon Mar  2 10:00:00 2026\n";
        let mbox = [&head[..], &with_bare_line_ends(&letter), b"\n"];
        std::fs::write(folder.path().join("letters"), mbox.concat()).unwrap();
        let said = s_nail(&way, folder.path());
        assert!(said.contains("Archive\n") && said.contains("difficult 3"), "{said}");
        assert!(!said.contains("difficult 4"), "{said}");
        let copied = std::fs::read(folder.path().join("mbox")).unwrap();
        let copied = String::from_utf8(copied).unwrap();
        assert!(
            copied.contains("\n* BYE no answer\nt1 OK done\n+ go on\nt2 NO {12}\n"),
            "{copied}"
        );
        assert_moved_and_flagged(&user, &mails);
        // The blank line that ends a mail in such a file goes along.
        let appended = [&letter[..], b"\r\n"].concat();
        user.assert_holds("Archive", &[(&mails[2], ""), (&appended, "")]);
    });
}

fn alpine_settings(way: &Account<'_>) -> String {
    let security = match way.security {
        Security::Implicit { .. } => "ssl",
        _ => "tls",
    };
    let server = format!("{{localhost:{}/{security}/user={}}}", way.address.port(), way.user);
    format!(
        "\
user-domain=example.test
inbox-path={server}INBOX
folder-collections=far {server}[]
feature-list=enable-flag-cmd,enable-aggregate-command-set,expunge-without-confirm,expunge-without-confirm-everywhere,\
             quit-without-confirm,disable-password-file-saving
postponed-folder=Drafts
last-version-used=6.61
last-time-prune-questioned=226.11
"
    )
}

#[test]
fn alpine_reads_finds_flags_moves_and_appends() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "alpine");
        let mails = difficult_mails();
        user.create("Archive");
        user.create("Drafts");
        user.put(&mails);
        let way = if shard == "north" { user.implicit() } else { user.starttls() };
        let folder = temporary_folder("alpine");
        let rc = folder.path().join("pinerc");
        std::fs::write(&rc, alpine_settings(&way)).unwrap();
        let script = folder.path().join("session.exp");
        std::fs::write(&script, include_str!("alpine.exp")).unwrap();
        run(Command::new("expect")
            .arg(&script)
            .arg(&rc)
            .arg(way.password)
            .env("HOME", folder.path())
            .env("TERM", "xterm")
            .env("SSL_CERT_FILE", way.security.ca().unwrap()));
        assert_moved_and_flagged(&user, &mails);
        user.assert_holds("Archive", &[(&mails[2], "")]);
        let mut client = user.direct_client();
        assert!(client.command_ok("EXAMINE Drafts").text().contains("* 1 EXISTS"));
        let draft = String::from_utf8(client.fetch_mail(1)).unwrap();
        assert!(draft.contains("\r\nSubject: written here\r\n"), "{draft}");
    });
}
