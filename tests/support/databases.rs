//! Real `PostgreSQL` and `MariaDB` servers with their own data, run by an unprivileged user.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::process::{Process, give_to, run};
use super::tls::Authority;

/// A system user that is on every Debian.
const OWNER: &str = "nobody:nogroup";

/// The password of the databases' administrators.
pub const PASSWORD: &str = "database-s3cret";

/// A running database server; ended when dropped.
pub struct DatabaseServer {
    pub process: Process,
    address: SocketAddr,
    kind: Kind,
    folder: TempDir,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Postgres,
    MariaDb,
}

impl DatabaseServer {
    /// `PostgreSQL` with a database `mail`.
    pub fn postgres(authority: &Authority) -> Self {
        let folder = super::temporary_folder("postgres");
        let (certificate, key) = certificate(authority, &folder);
        let data = folder.path().join("data");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, PASSWORD).unwrap();
        give_to(OWNER, folder.path());
        let programs = postgres_programs();
        run(unprivileged(&programs.join("initdb"))
            .args(["--no-sync", "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "-D"])
            .arg(&data)
            .arg("--pwfile")
            .arg(&secret));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", address.port()),
            "unix_socket_directories=".to_owned(),
            "fsync=off".to_owned(),
            "ssl=on".to_owned(),
            format!("ssl_cert_file={}", certificate.display()),
            format!("ssl_key_file={}", key.display()),
        ];
        let mut command = unprivileged(&programs.join("postgres"));
        command.arg("-D").arg(&data).args(settings.iter().flat_map(|setting| ["-c", setting]));
        let server = Self::start(Kind::Postgres, "PostgreSQL", &mut command, address, folder);
        server.sql_in("postgres", "CREATE DATABASE mail");
        server
    }

    /// `MariaDB` with a database `mail`.
    pub fn mariadb(authority: &Authority) -> Self {
        let folder = super::temporary_folder("mariadb");
        let (certificate, key) = certificate(authority, &folder);
        let data = folder.path().join("data");
        std::fs::create_dir(&data).unwrap();
        give_to(OWNER, folder.path());
        run(unprivileged(Path::new("mariadb-install-db"))
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"])
            .arg(format!("--datadir={}", data.display())));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let mut command = unprivileged(Path::new("mariadbd"));
        command
            .args([
                "--no-defaults",
                "--bind-address=127.0.0.1",
                "--innodb-flush-log-at-trx-commit=0",
            ])
            .args(["--character-set-server=utf8mb4"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", folder.path().join("socket").display()))
            .arg(format!("--ssl-cert={}", certificate.display()))
            .arg(format!("--ssl-key={}", key.display()));
        let server = Self::start(Kind::MariaDb, "MariaDB", &mut command, address, folder);
        run(server.client("").arg("-e").arg(format!(
            "CREATE DATABASE mail; CREATE USER proxy@'127.0.0.1' IDENTIFIED BY '{PASSWORD}'; \
             GRANT SELECT ON mail.* TO proxy@'127.0.0.1'"
        )));
        server
    }

    fn start(
        kind: Kind,
        name: &str,
        command: &mut Command,
        address: SocketAddr,
        folder: TempDir,
    ) -> Self {
        let name = format!("{name} on {address}");
        let mut process = Process::start(&name, command, &folder.path().join("log"));
        process.wait_for_port(address);
        // Its port may be open before the socket in its folder is.
        process.wait_for_log(match kind {
            Kind::Postgres => "ready to accept connections",
            Kind::MariaDb => "ready for connections",
        });
        Self { process, address, kind, folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs statements in the database `mail` as its administrator.
    pub fn sql(&self, statements: &str) {
        self.sql_in("mail", statements);
    }

    fn sql_in(&self, database: &str, statements: &str) {
        let mut client = self.client(database);
        match self.kind {
            Kind::Postgres => client.args(["-v", "ON_ERROR_STOP=1", "-q", "-c", statements]),
            Kind::MariaDb => client.args(["-e", statements]),
        };
        run(&mut client);
    }

    fn client(&self, database: &str) -> Command {
        let port = self.address.port().to_string();
        match self.kind {
            Kind::Postgres => {
                let mut client = Command::new(postgres_programs().join("psql"));
                client.env("PGPASSWORD", PASSWORD);
                client.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", database]);
                client
            }
            Kind::MariaDb => {
                let mut client = Command::new("mariadb");
                client.arg("--no-defaults");
                client.arg(format!("--socket={}", self.folder.path().join("socket").display()));
                client.args(["-u", "root", database]);
                client
            }
        }
    }
}

fn certificate(authority: &Authority, folder: &TempDir) -> (PathBuf, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "database");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    (certificate, key)
}

/// Database servers refuse to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"]).arg(program);
    command
}

/// Where Debian keeps the programs of its one version of `PostgreSQL`.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").unwrap();
    let mut folders: Vec<PathBuf> = versions.map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders.pop().unwrap().join("bin")
}
