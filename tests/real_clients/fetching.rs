//! Programs that empty a mailbox into files: getmail, and fetchmail, which waits in IDLE.

use std::path::Path;
use std::process::Command;

use super::service::{as_kept, contents, difficult_mails, on_dovecot_and_cyrus, resident, wake_up};
use super::support::process::{Process, give_to, run};
use super::support::programs::{Account, Security};
use super::support::{mail, temporary_folder, wait_until};

/// Moves each mail to `Archive` behind it; mails are written by `nobody`, since it
/// writes none as root.
fn getmail_settings(way: &Account<'_>, folder: &Path) -> String {
    format!(
        "\
[retriever]
type = SimpleIMAPSSLRetriever
server = localhost
port = {port}
username = {user}
password = {password}
mailboxes = (\"INBOX\",)
ca_certs = {ca}
move_on_delete = Archive
timeout = 60

[destination]
type = Maildir
path = {folder}/mail/
user = nobody

[options]
verbose = 2
delete = true
delivered_to = false
received = false
",
        port = way.address.port(),
        user = way.user,
        password = way.password,
        ca = way.security.ca().unwrap().display(),
        folder = folder.display(),
    )
}

/// getmail delivers each mail in a child and then waits to be told of its end; of one that
/// ended before that it hears nothing, and gives up after a minute. So its children take
/// their time.
const SLOW_CHILDREN: &str = "\
import os, time
os.register_at_fork(after_in_child=lambda: time.sleep(1))
";

/// The mails without their heads, to which getmail adds lines of its own, sorted.
fn bodies(mails: &[Vec<u8>]) -> Vec<&[u8]> {
    let mut bodies: Vec<&[u8]> =
        mails.iter().map(|text| &text[memchr::memmem::find(text, b"\n\n").unwrap()..]).collect();
    bodies.sort_unstable();
    bodies
}

/// getmail with its settings, in a folder that its mails go to.
fn getmail(way: &Account<'_>, at: &Path) -> Command {
    for part in ["new", "cur", "tmp"] {
        std::fs::create_dir_all(at.join("mail").join(part)).unwrap();
    }
    std::fs::write(at.join("getmailrc"), getmail_settings(way, at)).unwrap();
    give_to("nobody:nogroup", at);
    std::fs::write(at.join("sitecustomize.py"), SLOW_CHILDREN).unwrap();
    let mut getmail = Command::new("getmail");
    getmail.arg("--getmaildir").arg(at).env("HOME", at).env("PYTHONPATH", at);
    getmail
}

#[test]
fn getmail_fetches_the_same_bodies_and_moves_the_mails() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "getmail");
        let mails = difficult_mails();
        user.create("Archive");
        user.put(&mails);
        let folder = temporary_folder("getmail");
        let at = folder.path();
        run(&mut getmail(&user.implicit(), at));
        let (fetched, kept) = (contents(&at.join("mail/new")), as_kept(&mails));
        assert_eq!(fetched.len(), kept.len());
        assert!(bodies(&fetched) == bodies(&kept), "the mails differ");
        let archived: Vec<(&[u8], &str)> = mails.iter().map(|text| (&text[..], "")).collect();
        user.assert_holds("Archive", &archived);
        user.assert_holds("INBOX", &[]);
    });
}

#[test]
fn getmail_wakes_from_idle() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "getmail-waits");
        let first = mail("first");
        user.create("Archive");
        user.put(std::slice::from_ref(&first));
        let folder = temporary_folder("getmail");
        let at = folder.path();
        let mut getmail = getmail(&user.implicit(), at);
        getmail.args(["--idle", "INBOX", "--trace"]).env("PYTHONUNBUFFERED", "1");
        let mut getmail = Process::start("getmail", &mut getmail, &at.join("log"));
        user.wake(&mut getmail, "Entering IDLE mode");
        getmail.wait_for_log("IDLE message received");
        wait_until("both mails are fetched and moved", || {
            let mut client = user.direct_client();
            let moved = client.command_ok("EXAMINE Archive").text().contains("* 2 EXISTS");
            (contents(&at.join("mail/new")).len() == 2 && moved).then_some(())
        });
        let (fetched, kept) = (contents(&at.join("mail/new")), [first.clone(), wake_up()]);
        assert!(bodies(&fetched) == bodies(&as_kept(&kept)), "the mails differ");
        user.assert_holds("Archive", &[(&first, ""), (&wake_up(), "")]);
        user.assert_holds("INBOX", &[]);
    });
}

/// What fetchmail makes of these mails: it ends each with a line end.
fn with_line_ends(mails: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut texts = as_kept(mails);
    texts.iter_mut().filter(|text| !text.ends_with(b"\n")).for_each(|text| text.push(b'\n'));
    texts
}

fn fetchmail_settings(way: &Account<'_>, folder: &Path) -> String {
    let security = match way.security {
        Security::Implicit { .. } => "ssl",
        _ => "sslproto tls1.2+",
    };
    format!(
        "\
poll localhost protocol IMAP port {port}
  user \"{user}\" password \"{password}\"
  {security} sslcertck sslcertfile \"{ca}\"
  idle nokeep fetchall no rewrite
  mda \"cat > $(mktemp {folder}/mail/XXXXXX)\"
",
        port = way.address.port(),
        user = way.user,
        password = way.password,
        ca = way.security.ca().unwrap().display(),
        folder = folder.display(),
    )
}

#[test]
fn fetchmail_fetches_the_same_bytes_deletes_the_mails_and_wakes_from_idle() {
    use std::os::unix::fs::PermissionsExt;
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "fetchmail");
        let mut mails = difficult_mails();
        user.put(&mails);
        let way = if shard == "north" { user.starttls() } else { user.implicit() };
        let folder = temporary_folder("fetchmail");
        let at = folder.path();
        std::fs::create_dir(at.join("mail")).unwrap();
        let rc = at.join("fetchmailrc");
        std::fs::write(&rc, fetchmail_settings(&way, at)).unwrap();
        // It reads no settings that others may read.
        std::fs::set_permissions(&rc, PermissionsExt::from_mode(0o600)).unwrap();

        let mut fetchmail = Process::start(
            "fetchmail",
            Command::new("stdbuf")
                .args([
                    "-oL",
                    "fetchmail",
                    "--verbose",
                    "--nosyslog",
                    "--nodetach",
                    "--invisible",
                    "--fetchmailrc",
                ])
                .arg(&rc)
                // Root's is one for all otherwise, and only one may run.
                .arg("--pidfile")
                .arg(at.join("pid"))
                .env("HOME", at)
                .env("FETCHMAILHOME", at),
            &at.join("log"),
        );
        user.wake(&mut fetchmail, "IMAP< +");
        mails.push(wake_up());
        wait_until("the seventh mail is there, and deleted on the server", || {
            let mut client = user.direct_client();
            let empty = client.command_ok("EXAMINE INBOX").text().contains("* 0 EXISTS");
            (contents(&at.join("mail")).len() == 7 && empty).then_some(())
        });
        assert!(contents(&at.join("mail")) == with_line_ends(&mails), "the mails differ");
    });
}
