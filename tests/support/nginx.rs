//! nginx from Debian on a free loopback port: its own mail module, or HTTPS in front of a server.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::tls::Identity;

/// A running nginx that asks one authentication server; ended when dropped.
pub struct Nginx {
    _process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// IMAP in clear text; `auth` is where the server listens, `path` what is asked for.
    pub fn start(auth: SocketAddr, path: &str) -> Self {
        Self::with(|address, _| {
            format!(
                "mail {{\n  auth_http {auth}{path};\n  auth_http_header X-Key s3cret;\n  \
                 proxy_pass_error_message on;\n  imap_auth plain login;\n  \
                 server {{ listen {address}; protocol imap; }}\n}}\n"
            )
        })
    }

    /// HTTPS with that certificate; requests are passed on to the HTTP server.
    pub fn https(server: SocketAddr, identity: &Identity) -> Self {
        Self::with(|address, folder| {
            let (certificate, key) = identity.write(folder, "https");
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("  {kind}_temp_path {};\n", folder.join(kind).display()))
                .concat();
            format!(
                "http {{\n{temporary}  access_log off;\n  server {{\n    listen {address} ssl;\n    \
                 ssl_certificate {};\n    ssl_certificate_key {};\n    \
                 location / {{ proxy_pass http://{server}; }}\n  }}\n}}\n",
                certificate.display(),
                key.display(),
            )
        })
    }

    fn with(blocks: impl FnOnce(SocketAddr, &Path) -> String) -> Self {
        let folder = super::temporary_folder("nginx");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, super::free_port()));
        let root = folder.path().display();
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_mail_module.so;\n\
             daemon off; master_process off; pid {root}/pid; error_log {root}/error.log;\n\
             events {{ worker_connections 64; }}\n{}",
            blocks(address, folder.path())
        );
        let file = folder.path().join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut process = Process::start(
            &format!("nginx on {address}"),
            Command::new("/usr/sbin/nginx").arg("-p").arg(folder.path()).arg("-c").arg(&file),
            &folder.path().join("log"),
        );
        process.wait_for_port(address);
        Self { _process: process, address, _folder: folder }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
