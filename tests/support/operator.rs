//! The proxy's operator: the command line, and the admin API as it is.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use serde_json::Value;

use super::http::Answer;
use super::pointsman::{Pointsman, run_binary};

impl Pointsman {
    /// Where the admin API listens.
    pub fn socket(&self) -> PathBuf {
        self.places().file("state").join("admin.sock")
    }

    /// Runs a command of the operator; gives exit code and both outputs together.
    pub fn operate(&self, arguments: &[&str]) -> (i32, String) {
        let socket = self.socket();
        run_binary(&[arguments, &["--socket", socket.to_str().unwrap()]].concat())
    }

    /// The same, and it must succeed.
    pub fn operate_ok(&self, arguments: &[&str]) -> String {
        let (code, text) = self.operate(arguments);
        assert_eq!(code, 0, "{arguments:?}: {text}");
        text
    }

    /// The same with its answer as JSON.
    pub fn operate_json(&self, arguments: &[&str]) -> Value {
        let text = self.operate_ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Sends these bytes to the admin socket; gives status and body of the answer.
    pub fn admin_request(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut socket = UnixStream::connect(self.socket()).unwrap();
        socket.write_all(request.as_ref()).unwrap();
        let mut all = Vec::new();
        // A server that refuses a body early may reset the rest of it.
        let _ = socket.read_to_end(&mut all);
        let all = String::from_utf8_lossy(&all);
        let (head, body) =
            all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {all:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: body.to_owned() }
    }

    /// A POST with a JSON body.
    pub fn admin_post(&self, call: &str, body: &str) -> Answer {
        let length = body.len();
        self.admin_request(format!(
            "POST /api/v1/{call} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    }
}
