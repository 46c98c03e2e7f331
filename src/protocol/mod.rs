//! IMAP as bytes: frames, commands, responses, capabilities. No IO, no clock.

pub mod capability;
pub mod command;
pub mod command_kind;
pub mod framer;
pub mod response;
pub mod response_code;
pub mod strings;
