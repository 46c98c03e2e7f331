//! A scripted backend that behaves like an ordinary IMAP server, as far as tests of a
//! proxy need one: it takes any login and answers the usual commands.

use std::io::Result;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::backend::{Backend, Conversation, Opening};
use super::client::announced_literal;

/// What an ordinary backend says and how fast.
#[derive(Clone)]
pub struct Ordinary {
    opening: Opening,
    capability: String,
    capability_after: String,
    capability_in_login: bool,
    delays: Vec<(String, Duration)>,
    mails: Vec<Vec<u8>>,
    verdict: Verdict,
    appended: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// The tagged answer to a user and password, e.g. `OK Logged in.`.
type Verdict = Arc<dyn Fn(&[u8], &[u8]) -> String + Send + Sync>;

/// A command, its literals taken out.
struct Command {
    tag: String,
    /// The command word in upper case; `UID FETCH` and so on are two words.
    name: String,
    /// What follows, literals put in as they came.
    arguments: Vec<Argument>,
}

enum Argument {
    Text(String),
    Literal(Vec<u8>),
}

impl Argument {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Literal(bytes) => bytes,
        }
    }
}

impl Ordinary {
    /// Clear text; lists SASL-IR, LITERAL+, ID and AUTH=PLAIN; every login succeeds.
    pub fn new() -> Self {
        Self {
            opening: Opening::clear(),
            capability: "IMAP4rev1 SASL-IR LITERAL+ ID ENABLE IDLE AUTH=PLAIN".to_owned(),
            capability_after: "IMAP4rev1 SASL-IR LITERAL+ ID ENABLE IDLE UIDPLUS MOVE".to_owned(),
            capability_in_login: true,
            delays: Vec::new(),
            mails: vec![super::mail("one"), super::mail("two")],
            verdict: Arc::new(|_, _| "OK Logged in.".to_owned()),
            appended: Arc::default(),
        }
    }

    /// How connections begin. STARTTLS is listed where a certificate is given and TLS
    /// does not come first.
    #[must_use]
    pub fn opening(mut self, opening: Opening) -> Self {
        self.opening = opening;
        self
    }

    /// The capabilities before login.
    #[must_use]
    pub fn capability(mut self, list: &str) -> Self {
        list.clone_into(&mut self.capability);
        self
    }

    /// The capabilities after login.
    #[must_use]
    pub fn capability_after(mut self, list: &str) -> Self {
        list.clone_into(&mut self.capability_after);
        self
    }

    /// Leaves the CAPABILITY code out of the login's OK, so that one has to ask.
    #[must_use]
    pub fn silent_after_login(mut self) -> Self {
        self.capability_in_login = false;
        self
    }

    /// Waits before each answer to that command (`FETCH`, `UID FETCH`, `LOGIN`,
    /// `AUTHENTICATE`, and `GREETING` for the greeting).
    #[must_use]
    pub fn delay(mut self, command: &str, time: Duration) -> Self {
        self.delays.push((command.to_owned(), time));
        self
    }

    /// The mailbox's content.
    #[must_use]
    pub fn mails(mut self, mails: Vec<Vec<u8>>) -> Self {
        self.mails = mails;
        self
    }

    /// Decides about logins: the text behind the tag, beginning with OK, NO or BAD.
    #[must_use]
    pub fn verdict(
        mut self,
        verdict: impl Fn(&[u8], &[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        self.verdict = Arc::new(verdict);
        self
    }

    /// The mails that were appended, shared with every clone of this value.
    pub fn appended(&self) -> Arc<Mutex<Vec<Vec<u8>>>> {
        Arc::clone(&self.appended)
    }

    /// Starts it on a free port.
    pub fn start(self) -> Backend {
        self.start_at(super::free_port())
    }

    /// Starts it on that port.
    pub fn start_at(self, port: u16) -> Backend {
        Backend::start_at(port, self.opening.clone(), move |conversation| {
            self.converse(conversation)
        })
    }

    /// Holds one whole conversation, from the greeting to the end; scripts that begin
    /// in their own way may go on with [`Self::serve`].
    pub fn converse(&self, peer: &mut Conversation) -> Result<()> {
        self.wait("GREETING", peer);
        let starttls = if self.offers_starttls() { " STARTTLS" } else { "" };
        peer.send(format!("* OK [CAPABILITY {}{starttls}] ready\r\n", self.capability))?;
        self.serve(peer)
    }

    /// Answers commands until LOGOUT or the end.
    pub fn serve(&self, peer: &mut Conversation) -> Result<()> {
        let mut state = Served { starttls: self.offers_starttls(), ..Served::default() };
        // Sessions may be silent for long; the end comes by close.
        peer.wire()?.set_timeout(Duration::from_secs(3_600))?;
        while !state.ended {
            let command = read_command(peer)?;
            self.wait(&command.name, peer);
            self.answer(peer, &command, &mut state)?;
        }
        Ok(())
    }

    fn offers_starttls(&self) -> bool {
        self.opening.tls.is_some() && !self.opening.implicit_tls
    }

    fn wait(&self, command: &str, peer: &Conversation) {
        for (_, time) in self.delays.iter().filter(|(name, _)| name == command) {
            peer.pause(*time);
        }
    }

    fn answer(&self, peer: &mut Conversation, command: &Command, state: &mut Served) -> Result<()> {
        let tag = &command.tag;
        let untagged = match command.name.as_str() {
            "CAPABILITY" => format!("* CAPABILITY {}\r\n", self.listed(state)),
            "ID" => "* ID (\"name\" \"ordinary\")\r\n".to_owned(),
            "STARTTLS" if state.starttls => {
                peer.send(format!("{tag} OK Begin TLS.\r\n"))?;
                state.starttls = false;
                return peer.start_tls();
            }
            "LOGIN" => return self.login(peer, command, state),
            "AUTHENTICATE" => return self.authenticate(peer, command, state),
            "LOGOUT" => {
                state.ended = true;
                "* BYE Logging out\r\n".to_owned()
            }
            "NOOP" | "CHECK" => String::new(),
            _ if !state.logged_in => return peer.send(format!("{tag} BAD Log in first.\r\n")),
            "SELECT" | "EXAMINE" => {
                format!("* FLAGS (\\Seen)\r\n* {} EXISTS\r\n* 0 RECENT\r\n", self.mails.len())
            }
            "FETCH" | "UID FETCH" => return self.fetch(peer, command),
            "APPEND" => {
                let mail = command.arguments.last().map(|last| last.bytes().to_vec());
                self.appended.lock().unwrap().extend(mail);
                String::new()
            }
            "IDLE" => return idle(peer, tag),
            "LIST" => "* LIST () \"/\" INBOX\r\n".to_owned(),
            "CLOSE" | "UNSELECT" | "ENABLE" | "STORE" | "UID STORE" | "SEARCH" | "UID SEARCH"
            | "STATUS" | "NAMESPACE" | "CREATE" | "DELETE" | "EXPUNGE" | "COPY" => String::new(),
            other => return peer.send(format!("{tag} BAD Unknown command {other}.\r\n")),
        };
        peer.send(format!("{untagged}{tag} OK {} completed.\r\n", command.name))
    }

    fn listed(&self, state: &Served) -> String {
        if state.logged_in {
            return self.capability_after.clone();
        }
        let starttls = if state.starttls { " STARTTLS" } else { "" };
        format!("{}{starttls}", self.capability)
    }

    fn login(&self, peer: &mut Conversation, command: &Command, state: &mut Served) -> Result<()> {
        let [user, password] = command.arguments.as_slice() else {
            return peer.send(format!("{} BAD LOGIN takes two strings.\r\n", command.tag));
        };
        peer.note_login("LOGIN", b"", user.bytes(), password.bytes());
        self.conclude(peer, &command.tag, (user.bytes(), password.bytes()), state)
    }

    fn authenticate(
        &self,
        peer: &mut Conversation,
        command: &Command,
        state: &mut Served,
    ) -> Result<()> {
        let tag = &command.tag;
        let mut words = command.arguments.iter().map(Argument::bytes);
        if !words.next().unwrap_or_default().eq_ignore_ascii_case(b"PLAIN") {
            return peer.send(format!("{tag} NO Unsupported mechanism.\r\n"));
        }
        let message = if let Some(initial) = words.next() {
            initial.to_vec()
        } else {
            peer.send("+ \r\n")?;
            peer.line()?
        };
        if message == b"*" {
            return peer.send(format!("{tag} BAD Cancelled.\r\n"));
        }
        let decoded = STANDARD.decode(&message).unwrap_or_default();
        let parts: Vec<&[u8]> = decoded.split(|byte| *byte == 0).collect();
        let [authzid, user, password] = parts.as_slice() else {
            return peer.send(format!("{tag} BAD Not a PLAIN message.\r\n"));
        };
        peer.note_login("PLAIN", authzid, user, password);
        self.conclude(peer, tag, (user, password), state)
    }

    fn conclude(
        &self,
        peer: &mut Conversation,
        tag: &str,
        (user, password): (&[u8], &[u8]),
        state: &mut Served,
    ) -> Result<()> {
        let verdict = (self.verdict)(user, password);
        state.logged_in = verdict.starts_with("OK");
        let answer = match verdict.strip_prefix("OK ") {
            Some(text) if self.capability_in_login && !text.starts_with('[') => {
                format!("{tag} OK [CAPABILITY {}] {text}\r\n", self.capability_after)
            }
            _ => format!("{tag} {verdict}\r\n"),
        };
        peer.send(answer)
    }

    /// Gives whole mails for a number, `first:last` or `first:*`.
    fn fetch(&self, peer: &mut Conversation, command: &Command) -> Result<()> {
        let set = command.arguments.first().map(Argument::bytes).unwrap_or_default();
        let set = String::from_utf8_lossy(set).into_owned();
        let (first, last) = set.split_once(':').unwrap_or((&set, &set));
        let first: usize = first.parse().unwrap_or(1);
        let last = last.parse().unwrap_or(self.mails.len());
        let mut out = Vec::new();
        for (place, mail) in self.mails.iter().enumerate() {
            let number = place + 1;
            if number < first || number > last {
                continue;
            }
            let head = format!("* {number} FETCH (UID {number} BODY[] {{{}}}\r\n", mail.len());
            out.extend_from_slice(head.as_bytes());
            out.extend_from_slice(mail);
            out.extend_from_slice(b")\r\n");
        }
        out.extend_from_slice(format!("{} OK FETCH completed.\r\n", command.tag).as_bytes());
        peer.send(out)
    }
}

impl Default for Ordinary {
    fn default() -> Self {
        Self::new()
    }
}

impl Backend {
    /// An ordinary server that takes every login, in clear text.
    pub fn ordinary() -> Self {
        Ordinary::new().start()
    }
}

#[derive(Default)]
struct Served {
    starttls: bool,
    logged_in: bool,
    ended: bool,
}

fn idle(peer: &mut Conversation, tag: &str) -> Result<()> {
    peer.send("+ idling\r\n")?;
    let line = peer.idle()?;
    let status = if line.eq_ignore_ascii_case(b"DONE") { "OK" } else { "BAD" };
    peer.send(format!("{tag} {status} IDLE ended.\r\n"))
}

/// Reads a command with all its literals, saying `+` for those that wait for it.
fn read_command(peer: &mut Conversation) -> Result<Command> {
    let mut arguments = Vec::new();
    loop {
        let mut line = peer.wire()?.read_line()?;
        let literal_bytes = announced_literal(&line);
        let waits = !line.ends_with(b"+}\r\n");
        if literal_bytes.is_some() {
            let open = memchr::memrchr(b'{', &line).unwrap_or(line.len());
            line.truncate(open);
        }
        arguments.extend(split_words(&line).into_iter().map(Argument::Text));
        let Some(bytes) = literal_bytes else { break };
        if waits {
            peer.send("+ go on\r\n")?;
        }
        arguments.push(Argument::Literal(peer.exactly(bytes)?));
    }
    let mut words = arguments.into_iter();
    let mut next_word = || match words.next() {
        Some(Argument::Text(word)) => word,
        _ => String::new(),
    };
    let tag = next_word();
    let mut name = next_word().to_ascii_uppercase();
    if name == "UID" {
        name = format!("UID {}", next_word().to_ascii_uppercase());
    }
    Ok(Command { tag, name, arguments: words.collect() })
}

/// Words between blanks; a quoted string is one word, its quotes and escapes removed.
fn split_words(line: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(line);
    let mut words = Vec::new();
    let mut letters = text.trim_end_matches(['\r', '\n']).chars();
    let mut word: Option<String> = None;
    let mut in_quotes = false;
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if in_quotes => word.get_or_insert_default().extend(letters.next()),
            '"' => {
                in_quotes = !in_quotes;
                word.get_or_insert_default();
            }
            ' ' if !in_quotes => words.extend(word.take()),
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}
