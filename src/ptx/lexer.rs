//! PTX text to tokens (PTX ISA, "Syntax").
//!
//! Tokens borrow the text. Anything that can't start a token is an error with its position; nothing panics.

use super::error::{Error, Position};

/// One token and where it starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind<'t>,
    pub(super) at: Position,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'t> {
    /// Identifier, register or opcode: no dots.
    Word(&'t str),
    /// `.name`, without the dot.
    Dotted(&'t str),
    /// Integer literal, as 64 bits.
    Int(u64),
    /// `0f` and eight hex digits.
    F32(u32),
    /// `0d` and sixteen hex digits, or a decimal number with a point.
    F64(u64),
    /// Quoted text, without quotes.
    Text(&'t str),
    /// One punctuation character.
    Punct(char),
    /// After the last token.
    End,
}

impl std::fmt::Display for Kind<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Word(s) => write!(f, "`{s}`"),
            Self::Dotted(s) => write!(f, "`.{s}`"),
            Self::Int(n) => write!(f, "`{n}`"),
            Self::F32(bits) => write!(f, "`0f{bits:08X}`"),
            Self::F64(bits) => write!(f, "`0d{bits:016X}`"),
            Self::Text(s) => write!(f, "\"{s}\""),
            Self::Punct(c) => write!(f, "`{c}`"),
            Self::End => f.write_str("the end of the text"),
        }
    }
}

/// All tokens of `text`, closed by [`Kind::End`].
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    // Compilers hand out C strings, and editors leave byte order marks: files hold both.
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    let mut lexer = Lexer { text, bytes: text.as_bytes(), at: 0, line: 1, line_start: 0 };
    let mut out = Vec::new();
    loop {
        let token = lexer.next()?;
        out.push(token);
        if token.kind == Kind::End {
            return Ok(out);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    bytes: &'t [u8],
    at: usize,
    line: u32,
    line_start: usize,
}

impl<'t> Lexer<'t> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn position(&self) -> Position {
        let column = u32::try_from(self.at - self.line_start + 1).unwrap_or(u32::MAX);
        Position { line: self.line, column }
    }

    fn slice(&self, from: usize) -> &'t str {
        self.text.get(from..self.at).unwrap_or("")
    }

    fn next(&mut self) -> Result<Token<'t>, Error> {
        self.skip_blank()?;
        let at = self.position();
        let start = self.at;
        if self.at >= self.bytes.len() {
            return Ok(Token { kind: Kind::End, at });
        }
        let first = self.peek(0);
        let kind = match first {
            b'%' | b'_' | b'$' | b'a'..=b'z' | b'A'..=b'Z' => {
                self.at += 1;
                self.take_word();
                Kind::Word(self.slice(start))
            }
            b'.' if is_word(self.peek(1)) => {
                self.at += 1;
                self.take_word();
                while self.peek(0) == b':' && self.peek(1) == b':' && is_word(self.peek(2)) {
                    self.at += 2;
                    self.take_word();
                }
                Kind::Dotted(self.slice(start + 1))
            }
            b'0'..=b'9' => self.number(at)?,
            b'"' => self.quoted(at)?,
            b'{' | b'}' | b'[' | b']' | b'(' | b')' | b'<' | b'>' | b',' | b';' | b':' | b'=' | b'+' | b'-' | b'!'
            | b'|' | b'@' | b'*' | b'/' | b'&' | b'^' | b'~' => {
                self.at += 1;
                Kind::Punct(char::from(first))
            }
            _ => {
                let found = self.text.get(start..).and_then(|s| s.chars().next());
                return Err(Error::syntax(at, "a token", format!("{:?}", found.unwrap_or('\u{fffd}'))));
            }
        };
        Ok(Token { kind, at })
    }

    fn take_word(&mut self) {
        while is_word(self.peek(0)) {
            self.at += 1;
        }
    }

    fn skip_blank(&mut self) -> Result<(), Error> {
        loop {
            match (self.peek(0), self.peek(1)) {
                (b'\n', _) => {
                    self.at += 1;
                    self.line += 1;
                    self.line_start = self.at;
                }
                (b' ' | b'\t' | b'\r' | 0x0c, _) => self.at += 1,
                (b'/', b'/') => {
                    while self.at < self.bytes.len() && self.peek(0) != b'\n' {
                        self.at += 1;
                    }
                }
                (b'/', b'*') => {
                    let start = self.position();
                    self.at += 2;
                    while !(self.peek(0) == b'*' && self.peek(1) == b'/') {
                        if self.at >= self.bytes.len() {
                            return Err(Error::syntax(start, "a comment closed by `*/`", "the end of the text"));
                        }
                        if self.peek(0) == b'\n' {
                            self.line += 1;
                            self.line_start = self.at + 1;
                        }
                        self.at += 1;
                    }
                    self.at += 2;
                }
                _ => return Ok(()),
            }
        }
    }

    fn quoted(&mut self, at: Position) -> Result<Kind<'t>, Error> {
        self.at += 1;
        let start = self.at;
        while self.peek(0) != b'"' {
            if self.at >= self.bytes.len() || self.peek(0) == b'\n' {
                return Err(Error::syntax(at, "a closing quote on the same line", "the end of the line"));
            }
            self.at += if self.peek(0) == b'\\' && self.peek(1) != b'\n' { 2 } else { 1 };
        }
        let text = self.slice(start);
        self.at += 1;
        Ok(Kind::Text(text))
    }

    fn number(&mut self, at: Position) -> Result<Kind<'t>, Error> {
        let start = self.at;
        self.take_word();
        let word = self.slice(start);
        let second = word.as_bytes().get(1).copied().unwrap_or(0);
        let is_decimal = word.bytes().all(|b| b.is_ascii_digit() || b == b'e' || b == b'E');
        let has_exponent = is_decimal && word.bytes().any(|b| !b.is_ascii_digit());
        if is_decimal && (self.peek(0) == b'.' && self.peek(1).is_ascii_digit() || has_exponent) {
            return self.decimal(start, at);
        }
        let bad = || Error::syntax(at, "a number", format!("`{word}`"));
        let digits = |from: usize| word.get(from..).unwrap_or("");
        let hex_float = |width: usize| {
            let digits = digits(2);
            (digits.len() == width).then(|| u64::from_str_radix(digits, 16).ok()).flatten().ok_or_else(bad)
        };
        match (word.starts_with('0'), second) {
            (true, b'f' | b'F') => Ok(Kind::F32(hex_float(8)? as u32)),
            (true, b'd' | b'D') => Ok(Kind::F64(hex_float(16)?)),
            _ => {
                let (digits, radix) = match (word.starts_with('0'), second) {
                    (true, b'x' | b'X') => (digits(2), 16),
                    (true, b'b' | b'B') => (digits(2), 2),
                    (true, b'0'..=b'9') => (digits(1), 8),
                    _ => (word, 10),
                };
                let digits = digits.strip_suffix('U').unwrap_or(digits);
                u64::from_str_radix(digits, radix).map(Kind::Int).map_err(|_| bad())
            }
        }
    }

    fn decimal(&mut self, start: usize, at: Position) -> Result<Kind<'t>, Error> {
        if self.peek(0) == b'.' {
            self.at += 1;
            self.take_word();
        }
        if matches!(self.bytes.get(self.at.wrapping_sub(1)), Some(b'e' | b'E')) && matches!(self.peek(0), b'+' | b'-') {
            self.at += 1;
            self.take_word();
        }
        let word = self.slice(start);
        let value: f64 = word.parse().map_err(|_| Error::syntax(at, "a number", format!("`{word}`")))?;
        Ok(Kind::F64(value.to_bits()))
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$'
}
