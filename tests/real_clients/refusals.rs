//! What programs tell their user: a wrong password is one, and a backend that is down is
//! for now.

use std::process::{Command, Output};

use super::service::{on_dovecot_and_cyrus, resident, stranded};
use super::support::authorization::node_modules;
use super::support::process::output;
use super::support::programs::Account;
use super::support::temporary_folder;

/// Prints how the login was refused.
const IMAPLIB: &str = "\
import imaplib, ssl, sys
c = imaplib.IMAP4_SSL('localhost', int(sys.argv[1]), ssl_context=ssl.create_default_context(cafile=sys.argv[2]))
try:
    c.login(*sys.argv[3:])
except imaplib.IMAP4.error as error:
    print(error)
";

/// Prints the response code that came with the refusal.
const IMAPFLOW: &str = "\
const { ImapFlow } = require('imapflow');
const [port, ca, user, pass] = process.argv.slice(1);
const client = new ImapFlow({ host: 'localhost', port: Number(port), secure: true,
    tls: { ca: require('fs').readFileSync(ca) }, auth: { user, pass }, logger: false });
client.on('error', () => {});
client.connect().catch((error) => {
    console.log(error.serverResponseCode, error.responseText);
    process.exit(1);
});
";

fn said(command: &mut Command) -> String {
    let Output { stdout, stderr, .. } = output(command);
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

fn with_account(command: &mut Command, account: &Account<'_>) -> String {
    command.arg(account.address.port().to_string()).arg(account.security.ca().unwrap());
    said(command.args([account.user, account.password]))
}

/// What imaplib, imapflow, mbsync and curl say to a login that is refused.
fn all_say(account: &Account<'_>) -> [String; 4] {
    let imaplib = with_account(Command::new("python3").args(["-c", IMAPLIB]), account);
    let mut imapflow = Command::new("node");
    imapflow.env("NODE_PATH", node_modules()).args(["-e", IMAPFLOW, "--"]);
    let imapflow = with_account(&mut imapflow, account);
    let folder = temporary_folder("refused");
    let mbsync = said(&mut account.mbsync_command(folder.path(), false));
    let curl = said(account.curl_command("INBOX").arg("--verbose"));
    [imaplib, imapflow, mbsync, curl]
}

#[test]
fn a_wrong_password_is_told_as_such() {
    on_dovecot_and_cyrus(|shard| {
        let user = resident(shard, "refused");
        for said in all_say(&Account { password: "wrong", ..user.implicit() }) {
            assert!(said.contains("AUTHENTICATIONFAILED"), "{said}");
            assert!(!said.contains("UNAVAILABLE"), "{said}");
        }
        // The password was right before, and is afterwards.
        user.proxied_client().logout();
    });
}

#[test]
fn a_backend_that_is_down_is_told_as_a_fault_for_now() {
    for said in all_say(&stranded()) {
        assert!(said.contains("UNAVAILABLE"), "{said}");
        assert!(said.contains("Please try again later."), "{said}");
        assert!(!said.contains("AUTHENTICATIONFAILED"), "{said}");
    }
}
