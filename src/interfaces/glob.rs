//! Names of interfaces and globs over them: `*`, `?`, `[abc]`, `[a-z]`, `[!x]`. Written here because interface
//! names need neither path separators nor a regular expression engine.

use thiserror::Error;

/// `IFNAMSIZ - 1`
const NAME_BYTES: usize = 15;

/// A pattern that can't match any interface.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "interface pattern {pattern:?}: {reason} (accepted: an interface name, or a glob of *, ?, [abc], [a-z], [!x])"
)]
pub struct PatternError {
    /// The offending pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Char(char),
    One,
    Many,
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn matches(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Many => false,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != *negated
            }
        }
    }
}

/// A name or glob, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    tokens: Vec<Token>,
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn new(pattern: &str) -> Result<Self, PatternError> {
        tokens(pattern)
            .and_then(|tokens| {
                let literal = tokens.iter().all(|token| matches!(token, Token::Char(_)));
                if tokens.is_empty() {
                    Err("it is empty")
                } else if literal && pattern.len() > NAME_BYTES {
                    Err("interface names have at most 15 bytes")
                } else if tokens
                    .iter()
                    .any(|token| matches!(token, Token::Char(c) if c.is_whitespace() || *c == '/'))
                {
                    Err("interface names hold neither blanks nor \"/\"")
                } else {
                    Ok(Self { tokens })
                }
            })
            .map_err(|reason| PatternError { pattern: pattern.to_owned(), reason })
    }

    /// Whether the whole pattern is this very name, with no wildcard.
    pub(super) fn names(&self, name: &str) -> bool {
        self.tokens.iter().all(|token| matches!(token, Token::Char(_))) && self.matches(name)
    }

    /// Whether the name matches.
    pub(super) fn matches(&self, name: &str) -> bool {
        let (mut rest, mut tokens) = (name.chars(), self.tokens.as_slice());
        // Where to go on after the latest `*` when what follows it did not fit.
        let mut retry = None;
        loop {
            match tokens.split_first() {
                Some((Token::Many, following)) => {
                    retry = Some((rest.clone(), following));
                    tokens = following;
                    continue;
                }
                Some((token, following)) if rest.clone().next().is_some_and(|c| token.matches(c)) => {
                    rest.next();
                    tokens = following;
                    continue;
                }
                Some(_) => {}
                None if rest.as_str().is_empty() => return true,
                None => {}
            }
            let Some((longer, following)) = retry.as_mut() else { return false };
            if longer.next().is_none() {
                return false;
            }
            (rest, tokens) = (longer.clone(), *following);
        }
    }
}

fn tokens(pattern: &str) -> Result<Vec<Token>, &'static str> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Many,
            '?' => Token::One,
            '[' => {
                let (token, after) = class(rest.as_str())?;
                rest = after.chars();
                token
            }
            c => Token::Char(c),
        });
    }
    Ok(tokens)
}

/// Reads what stands after a `[`; gives the rest after its `]`. A `]` that comes first stands for itself.
fn class(text: &str) -> Result<(Token, &str), &'static str> {
    let (negated, mut text) = match text.strip_prefix(['!', '^']) {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut ranges = Vec::new();
    loop {
        let mut rest = text.chars();
        match rest.next() {
            None => return Err("\"[\" is not closed"),
            Some(']') if !ranges.is_empty() => return Ok((Token::Class { negated, ranges }, rest.as_str())),
            Some(from) => {
                let mut ahead = rest.clone();
                match (ahead.next(), ahead.next()) {
                    (Some('-'), Some(to)) if to != ']' => {
                        if to < from {
                            return Err("a range in \"[]\" goes backwards");
                        }
                        ranges.push((from, to));
                        text = ahead.as_str();
                    }
                    _ => {
                        ranges.push((from, from));
                        text = rest.as_str();
                    }
                }
            }
        }
    }
}
