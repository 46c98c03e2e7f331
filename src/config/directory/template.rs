//! Texts with the user's name in them.

use crate::config::check::{Check, Text};

const TEMPLATE_FORM: &str = "%u (the user), %n (the part before the last @), %d (the domain \
                             behind it) or %% (a percent sign)";

/// A part of a canonical user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamePart {
    /// All of it.
    User,
    /// What is before the last `@`, all of it where there is none.
    Local,
    /// What is behind the last `@`, empty where there is none.
    Domain,
}

impl NamePart {
    /// That part of a name.
    pub fn of(self, name: &str) -> &str {
        match self {
            Self::User => name,
            Self::Local => name.rsplit_once('@').map_or(name, |(local, _)| local),
            Self::Domain => name.rsplit_once('@').map_or("", |(_, domain)| domain),
        }
    }
}

/// A text with places for parts of the user's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name(NamePart),
}

impl Template {
    /// `%u`, `%n`, `%d` and `%%`; nothing else may follow a percent sign.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                plain.push(letter);
                continue;
            }
            let part = match letters.next()? {
                'u' => NamePart::User,
                'n' => NamePart::Local,
                'd' => NamePart::Domain,
                '%' => {
                    plain.push('%');
                    continue;
                }
                _ => return None,
            };
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Name(part));
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Some(Self(pieces))
    }

    /// A template that has the user in it; else all users would get one answer.
    pub(super) fn check(key: &str, text: &Text, check: &mut Check<'_>) -> Option<Self> {
        let template = Self::parse(&text.value);
        let Some(template) = template else {
            check.refuse_value(key, text, TEMPLATE_FORM);
            return None;
        };
        let names = |part| template.0.contains(&Piece::Name(part));
        if !names(NamePart::User) && !names(NamePart::Local) && !names(NamePart::Domain) {
            check.refuse_value(key, text, format!("the user in it: {TEMPLATE_FORM}"));
        }
        Some(template)
    }

    /// The text with the name in its places, each part escaped by `escape` first.
    pub fn expand(&self, name: &str, mut escape: impl FnMut(&str, &mut String)) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(plain) => text.push_str(plain),
                Piece::Name(part) => escape(part.of(name), &mut text),
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, name: &str) -> String {
        Template::parse(text).unwrap().expand(name, |part, text| text.push_str(part))
    }

    #[test]
    fn the_parts_of_a_name_stand_in_their_places() {
        assert_eq!(expand("mail:%u", "a@b@c.org"), "mail:a@b@c.org");
        assert_eq!(expand("%d/%n", "a@b@c.org"), "c.org/a@b");
        assert_eq!(expand("%n|%d", "bob"), "bob|");
        assert_eq!(expand("100%%%u%%", "%u"), "100%%u%");
    }

    #[test]
    fn nothing_else_follows_a_percent_sign() {
        for text in ["%", "%x", "%U", "%1u", "%{user}", "a%"] {
            assert_eq!(Template::parse(text), None, "{text}");
        }
    }
}
