//! A real `OpenLDAP` server with its own configuration and tree, on free loopback ports.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Process, run};
use super::tls::Authority;

/// The tree's administrator, and the password.
pub const ADMIN: &str = "cn=admin,dc=example,dc=org";
pub const PASSWORD: &str = "directory-s3cret";

/// Attributes of its own, so that no schema of Debian's needs to fit.
const SCHEMA: &str = "\
attributetype ( 1.3.6.1.4.1.32473.1.1 NAME 'mailShard' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.32473.1.2 NAME 'mailPort' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.32473.1.3 NAME 'mailStatus' EQUALITY caseIgnoreMatch
  SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.32473.2.1 NAME 'mailUser' SUP top STRUCTURAL MUST uid
  MAY ( mailShard $ mailPort $ mailStatus $ host $ userPassword $ description ) )
";

/// A running server; ended when dropped.
pub struct Slapd {
    pub process: Process,
    address: SocketAddr,
    tls_port: u16,
    _folder: TempDir,
}

impl Slapd {
    /// One with these entries below `dc=example,dc=org`: user and further attributes. Nobody
    /// who has not signed in may read it.
    pub fn start(authority: &Authority, users: &[(&str, &[(&str, &str)])]) -> Self {
        let folder = super::temporary_folder("slapd");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "slapd");
        for name in ["data", "ca.pem", "schema", "slapd.conf", "tree.ldif"] {
            match name {
                "data" => std::fs::create_dir(path(name)).unwrap(),
                "ca.pem" => std::fs::write(path(name), authority.pem()).unwrap(),
                "schema" => std::fs::write(path(name), SCHEMA).unwrap(),
                "tree.ldif" => std::fs::write(path(name), tree(users)).unwrap(),
                _ => {
                    let text = format!(
                        "include /etc/ldap/schema/core.schema\n\
                         include /etc/ldap/schema/cosine.schema\n\
                         include {}\npidfile {}\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n\
                         TLSCACertificateFile {}\nTLSCertificateFile {}\n\
                         TLSCertificateKeyFile {}\nTLSVerifyClient never\n\
                         database mdb\nmaxsize 16777216\nsuffix \"dc=example,dc=org\"\n\
                         rootdn \"{ADMIN}\"\nrootpw {PASSWORD}\ndirectory {}\n\
                         access to * by users read by anonymous auth\n",
                        path("schema"),
                        path("pid"),
                        path("ca.pem"),
                        certificate.display(),
                        key.display(),
                        path("data"),
                    );
                    std::fs::write(path(name), text).unwrap();
                }
            }
        }
        run(Command::new("/usr/sbin/slapadd").args([
            "-q",
            "-f",
            &path("slapd.conf"),
            "-l",
            &path("tree.ldif"),
        ]));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let tls_port = super::free_port();
        let listeners = format!("ldap://{address}/ ldaps://127.0.0.1:{tls_port}/");
        let mut command = Command::new("/usr/sbin/slapd");
        command.args(["-d", "none", "-f", &path("slapd.conf"), "-h", &listeners]);
        let name = format!("slapd on {address}");
        let mut process = Process::start(&name, &mut command, &folder.path().join("log"));
        process.wait_for_port(address);
        Self { process, address, tls_port, _folder: folder }
    }

    /// Where it listens in clear text, and for `STARTTLS`.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens with TLS, for a configuration.
    pub fn tls_url(&self) -> String {
        format!("ldaps://localhost:{}", self.tls_port)
    }
}

/// LDIF; values in base64 where they are not plain.
fn tree(users: &[(&str, &[(&str, &str)])]) -> String {
    use base64::Engine;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let mut ldif = "dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\n\
                    dc: example\no: Example\n"
        .to_owned();
    for (number, (user, attributes)) in users.iter().enumerate() {
        // The distinguished name is a plain one, whatever the user is called.
        write!(
            ldif,
            "\ndn: description={number},dc=example,dc=org\nobjectClass: mailUser\n\
             description: {number}\nuid:: {}\n",
            encode(user)
        )
        .unwrap();
        for (name, value) in *attributes {
            writeln!(ldif, "{name}:: {}", encode(value)).unwrap();
        }
    }
    ldif
}
