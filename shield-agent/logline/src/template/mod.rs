//! Formats given as nginx's `log_format` string, and the text formats that are recognised by themselves, which are written in
//! the same notation.
//!
//! `conf` reads the notation, `variable` knows nginx's variables, `compile` makes a plan of it that `read` follows for each
//! line; `quick` follows it for usual lines. `known` has the formats that need no setting, `json` formats whose lines are JSON objects.

mod advice;
mod compile;
mod conf;
mod guess;
mod json;
mod known;
mod quick;
mod read;
pub(crate) mod request;
#[cfg(test)]
mod tests;
mod variable;
#[cfg(test)]
mod writing;

use serde::{Serialize, Serializer};

use crate::fields::{Reader, Texts};
use crate::{FieldNames, Format, syslog};
pub use advice::{Advice, advise};
use compile::{Plan, Tail};
use conf::Notation;
pub(crate) use known::Recogniser;
use read::Spans;
use shield_engine::request::{Line, Rejected};
use std::net::IpAddr;
use std::sync::Arc;
use variable::Take;

/// How special bytes of a variable are written: nginx's `escape=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escape {
    /// `\xHH` for quotes, backslashes and everything outside of printable ASCII; `-` for a missing value.
    Default,
    /// JSON's escapes; nothing for a missing value.
    Json,
    /// No escapes.
    None,
    /// A quote has a backslash or `\xHH`; of other bytes nothing is known (Apache, and others that write these formats).
    Any,
}

impl Escape {
    fn named(name: &str) -> Option<Escape> {
        match name {
            "default" => Some(Escape::Default),
            "json" => Some(Escape::Json),
            "none" => Some(Escape::None),
            _ => None,
        }
    }
}

/// What a format must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// `$remote_addr` or another address.
    Address,
    /// `$time_iso8601`, `$time_local` or `$msec`.
    Time,
    /// `$status`.
    Status,
}

/// Why a format cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It has no variable at all.
    NoVariables,
    /// A `$` without a name behind it.
    Variable,
    /// A line break inside the text.
    LineBreak,
    /// A backslash that is none of nginx's escapes.
    Backslash,
    /// `escape=` with an unknown word.
    Escape(String),
    /// A value that is needed is not in it.
    Lacks(Missing),
    /// Two variables with nothing between.
    Touching {
        /// The left one.
        first: String,
        /// The right one.
        second: String,
    },
    /// A client decides where a value begins or ends.
    Ambiguous {
        /// The variable that a client writes.
        client: String,
        /// The variable that cannot be told from it.
        hidden: String,
    },
    /// With `escape=none` a client could write whole lines.
    BreaksLines {
        /// The variable that may contain a line break.
        variable: String,
    },
    /// It begins like JSON and is none.
    Json,
    /// A JSON object with `escape=none`, into which a client can write fields of its own.
    UnescapedJson {
        /// A variable that it can do that with.
        variable: String,
    },
}

/// A `log_format` as the reader for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recipe {
    /// Lines of text.
    Text(Arc<Template>),
    /// One JSON object a line, with these names.
    Json(Box<FieldNames>),
}

impl Recipe {
    /// Makes the reader for nginx's `log_format`: the bare string, its quoted pieces, or the whole directive.
    ///
    /// # Errors
    /// When lines of that format cannot be read for certain.
    pub fn of(pasted: &str) -> Result<Recipe, Unusable> {
        let notation = conf::read(pasted)?;
        if notation.text.trim_start().starts_with('{') {
            return json::names(&notation).map(|names| Recipe::Json(Box::new(names)));
        }
        Template::new(notation, Tail::Closed).map(|template| Recipe::Text(Arc::new(template)))
    }
}

/// A format of text lines, compiled.
#[derive(Debug)]
pub struct Template {
    notation: Notation,
    plan: Plan,
}

impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        self.notation == other.notation
    }
}

impl Eq for Template {}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.notation.text)
    }
}

impl Template {
    fn new(notation: Notation, tail: Tail) -> Result<Template, Unusable> {
        let plan = compile::compile(&notation, tail)?;
        Ok(Template { notation, plan })
    }

    /// Reads a line. A line that has the format but no valid value is refused for that.
    fn read(&self, line: &[u8], reader: &mut Reader, texts: &mut Texts<'_>) -> Result<Line, Rejected> {
        let refused = match self.read_exactly(line, reader, texts) {
            Ok(found) => return Ok(found),
            Err(why) => why,
        };
        match refused {
            Rejected::Malformed | Rejected::NoStatus => self.salvage(line, reader, texts).ok_or(refused),
            _ => Err(refused),
        }
    }

    #[inline]
    fn read_exactly(
        &self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        let mut spans = Spans::none();
        self.plan.fit(line, &mut spans).ok_or(Rejected::Malformed)?;
        let values = Plan::values(line, &spans, reader)?;
        Ok(self.plan.finish(line, &spans, &values, texts))
    }

    fn salvage(&self, line: &[u8], reader: &mut Reader, texts: &mut Texts<'_>) -> Option<Line> {
        if self.plan.has_guess {
            let mut spans = Spans::none();
            let values = self.plan.fit_worst(line, &mut spans).map(|()| Plan::values(line, &spans, reader));
            if let Some(Ok(values)) = values {
                return Some(Line { salvaged: true, ..self.plan.finish(line, &spans, &values, texts) });
            }
        }
        let spans = self.plan.salvage(line, &|spans| whole(line, spans, reader))?;
        let values = Plan::values(line, &spans, reader).ok()?;
        Some(Line { salvaged: true, ..self.plan.finish(line, &spans, &values, texts) })
    }
}

/// Returns the line's address if everything that is needed is there.
fn whole(line: &[u8], spans: &Spans, reader: &Reader) -> Option<IpAddr> {
    read::status(spans.of(Take::Status, line))?;
    read::size(spans.of(Take::Size, line))?;
    crate::time::parse(spans.of(Take::Time, line))?;
    read::attribute(line, spans, reader).map(|client| client.addr)
}

/// The reader of a source's text lines.
#[derive(Debug)]
pub(crate) enum TextReader {
    /// The configured format.
    Own(Arc<Template>),
    Known(Recogniser),
}

impl TextReader {
    pub(crate) fn new(format: &Format) -> TextReader {
        match format {
            Format::Template(template) => TextReader::Own(template.clone()),
            Format::Combined | Format::Common => TextReader::Known(Recogniser::of_combined()),
            Format::Auto | Format::Json => TextReader::Known(Recogniser::of_all()),
        }
    }

    /// Reads one line without its newline and the blanks around it.
    pub(crate) fn read(
        &mut self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Result<Line, Rejected> {
        match self {
            TextReader::Own(template) => template.read(line, reader, texts).or_else(|why| {
                let bare = syslog::without_header(line).ok_or(why)?;
                template.read(bare, reader, texts)
            }),
            TextReader::Known(known) => known.read(line, reader, texts),
        }
    }

    /// Returns whether the format is known.
    pub(crate) fn is_settled(&self) -> bool {
        match self {
            TextReader::Own(_) => true,
            TextReader::Known(known) => known.is_settled(),
        }
    }

    /// Reads a line exactly of the format that is known, as [`TextReader::read`] would with the header and the blanks around it removed.
    #[inline]
    pub(crate) fn read_settled(
        &mut self,
        line: &[u8],
        reader: &mut Reader,
        texts: &mut Texts<'_>,
    ) -> Option<Line> {
        match self {
            TextReader::Own(_) if line.last() == Some(&b'\r') => None,
            TextReader::Own(template) => {
                let mut spans = Spans::none();
                match template.plan.read_quickly(line, &mut spans, reader) {
                    Some(values) => Some(template.plan.finish_plain(line, &spans, &values, texts)),
                    None => template.read_exactly(line, reader, texts).ok(),
                }
            }
            TextReader::Known(known) => known.read_settled(line, reader, texts),
        }
    }

    /// Returns the name of the format that the lines have.
    pub(crate) fn recognised(&self) -> Option<&'static str> {
        match self {
            TextReader::Own(_) => Some("log_format"),
            TextReader::Known(known) => known.recognised(),
        }
    }
}
