//! Words, marks and ends of lines.

use std::ops::Range;

use crate::rules::formats::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: also numbers, addresses, ranges.
    Word,
    /// What stood in quotes.
    Text,
    /// `{ } , ; = == != ! & |` and parentheses.
    Mark,
    /// The end of a line.
    Newline,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) start: usize,
    end: usize,
}

impl Token<'_> {
    pub(super) fn place(&self) -> Range<usize> {
        self.start..self.end
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        (self.place(), message.into())
    }
}

pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, Error> {
    let mut tokens = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        let kind = match byte {
            b'\n' => {
                at += 1;
                Kind::Newline
            }
            b' ' | b'\t' | b'\r' => {
                at += 1;
                continue;
            }
            b'\\' if bytes.get(at + 1) == Some(&b'\n') => {
                at += 2;
                continue;
            }
            b'#' => {
                at += bytes[at..].iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len() - at);
                continue;
            }
            b'"' => {
                let Some(length) = bytes[at + 1..].iter().position(|byte| *byte == b'"') else {
                    return Err((at..at + 1, "this quotation mark is never closed".to_owned()));
                };
                at += length + 2;
                tokens.push(Token { kind: Kind::Text, text: &text[start + 1..at - 1], start, end: at });
                continue;
            }
            b'=' | b'!' if bytes.get(at + 1) == Some(&b'=') => {
                at += 2;
                Kind::Mark
            }
            b'{' | b'}' | b',' | b';' | b'=' | b'!' | b'&' | b'|' | b'(' | b')' => {
                at += 1;
                Kind::Mark
            }
            _ => {
                let ends = |byte: &u8| {
                    matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'#')
                        || b"{},;=!&|()\\".contains(byte)
                };
                // A character that begins a word but ends one, too, is a word of its own.
                at += bytes[at..].iter().position(ends).unwrap_or(bytes.len() - at).max(1);
                while !text.is_char_boundary(at) {
                    at += 1;
                }
                Kind::Word
            }
        };
        tokens.push(Token { kind, text: &text[start..at], start, end: at });
    }
    Ok(tokens)
}

/// Goes through tokens.
pub(super) struct Cursor<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    length: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: &'a [Token<'a>], length: usize) -> Self {
        Self { tokens, at: 0, length }
    }

    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).copied()
    }

    /// The next token.
    pub(super) fn any(&mut self) -> Option<Token<'a>> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    /// The next token, which is not the end of a line or of the file.
    pub(super) fn word(&mut self) -> Result<Token<'a>, Error> {
        match self.any() {
            Some(token) if token.kind != Kind::Newline => Ok(token),
            Some(token) => Err(token.error("the line ends where a word was expected")),
            None => Err(self.end("the file ends where a word was expected")),
        }
    }

    pub(super) fn end(&self, message: &str) -> Error {
        (self.length..self.length, message.to_owned())
    }

    /// Where the token before ends.
    pub(super) fn before(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |token| token.end)
    }

    pub(super) fn expect(&mut self, text: &str) -> Result<(), Error> {
        let token = self.word()?;
        if token.text == text {
            return Ok(());
        }
        Err(token.error(format!("{:?} stands where {text:?} was expected", token.text)))
    }

    /// Takes the next token if it is this one.
    pub(super) fn eat(&mut self, text: &str) -> bool {
        let is = self.peek().is_some_and(|token| token.text == text && token.kind != Kind::Text);
        self.at += usize::from(is);
        is
    }

    pub(super) fn newlines(&mut self) {
        while self.peek().is_some_and(|token| token.kind == Kind::Newline) {
            self.at += 1;
        }
    }

    /// Ends of lines and semicolons.
    pub(super) fn separators(&mut self) {
        while self.peek().is_some_and(|token| token.kind == Kind::Newline || token.text == ";") {
            self.at += 1;
        }
    }

    /// Whether a statement ends here.
    pub(super) fn at_end(&self) -> bool {
        self.peek().is_none_or(|token| {
            token.kind == Kind::Newline || (token.kind == Kind::Mark && matches!(token.text, ";" | "}"))
        })
    }

    pub(super) fn until_separator(&mut self) {
        while !self.at_end() {
            self.at += 1;
        }
    }

    /// Passes over a block whose opening brace was read.
    pub(super) fn skip_block(&mut self) -> Result<(), Error> {
        let mut depth = 1;
        while let Some(token) = self.any() {
            match (token.kind, token.text) {
                (Kind::Mark, "{") => depth += 1,
                (Kind::Mark, "}") => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
        Err(self.end("a brace is never closed"))
    }

    /// The elements of a list whose opening brace was read, over lines.
    pub(super) fn list_rest(&mut self) -> Result<Vec<(Range<usize>, String)>, Error> {
        let mut elements = Vec::new();
        loop {
            self.newlines();
            let token = self.word()?;
            if token.kind == Kind::Mark && token.text == "}" {
                return Ok(elements);
            }
            if token.kind == Kind::Mark {
                return Err(token.error(format!("{:?} stands where an element was expected", token.text)));
            }
            elements.push((token.place(), token.text.to_owned()));
            self.newlines();
            let next = self.word()?;
            match next.text {
                "," => {}
                "}" => return Ok(elements),
                other => {
                    return Err(next.error(format!(
                        "{other:?} is not understood in a list: elements are single values, separated by commas"
                    )));
                }
            }
        }
    }
}
