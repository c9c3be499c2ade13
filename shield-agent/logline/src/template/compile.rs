//! Compiles a log format to pieces that are read from left to right without looking back.
//!
//! A field ends for certain where the text behind it has a byte that the field cannot contain. Where it has none (a user name
//! before ` [`), a later text does, and the fields between are read from there to the left: a *zone*. A format in which a
//! field that Shield needs can be found neither way is refused, because there a client could choose its value; but a status
//! behind the address and the time may be one of several (`guess`).

use memchr::memmem::Finder;

use super::conf::{self, Notation, Part};
use super::guess::Guess;
use super::variable::{Class, REALIP, TIME_LOCAL_BYTES, Take, Variable, may_break_the_line, may_contain};
use super::{Escape, Missing, Unusable};

/// A format that is ready to read lines.
#[derive(Debug)]
pub(crate) struct Plan {
    pub lead: Literal,
    pub pieces: Box<[Piece]>,
    pub escape: Escape,
    pub path: PathKind,
    /// The class of the time's variable.
    pub time: Class,
    /// The piece after which the address is known.
    pub addr_piece: usize,
    /// A client can make a line of several readings.
    pub has_guess: bool,
}

/// How the path is made from its field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathKind {
    Whole,
    /// `$uri$is_args$args`, where nginx writes `-` for missing arguments.
    WithArgs,
    /// `$host$request_uri`.
    BehindHost,
}

/// A field, or several, and the text behind.
#[derive(Debug)]
pub(crate) struct Piece {
    /// What the first field, whose end is not certain in itself, is taken for.
    pub first: Take,
    /// A client influences it.
    pub is_clients: bool,
    /// The fields behind the first one, from right to left.
    pub back: Box<[Back]>,
    pub end: End,
    /// The text behind all of them.
    pub then: Literal,
    /// How the fields are found where neither end is certain.
    pub guess: Option<Box<Guess>>,
    /// A text behind a field has a backslash, which a search for a quote takes for an escape.
    pub has_backslash: bool,
}

/// A field that is read from its end.
#[derive(Debug)]
pub(crate) struct Back {
    pub take: Take,
    /// The text before it.
    pub before: Literal,
    pub start: Start,
}

/// Where a field that is read from its end begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// `distance` bytes behind the last such byte, which the field cannot contain.
    Behind { byte: u8, distance: usize },
    /// A fixed number of bytes before its end.
    Fixed(usize),
}

/// Where the text behind a piece is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// At the first such byte, `back` bytes behind the text's start.
    Byte { byte: u8, back: usize },
    /// The same for a quote that no backslash escapes.
    Quote { back: usize },
    /// After a fixed number of bytes.
    Fixed(usize),
    /// At the end of the line.
    Line,
    /// At the first blank or the end of the line.
    Open,
}

/// A fixed text, compared eight bytes at a time: nearly all are shorter, and a call for each would cost more than the rest.
#[derive(Debug)]
pub(crate) struct Literal {
    pub text: Box<[u8]>,
    /// The first eight bytes, and a mask of those that belong to the text.
    head: u64,
    mask: u64,
    pub finder: Finder<'static>,
}

impl Literal {
    pub(super) fn new(text: &[u8]) -> Literal {
        let word = |byte: &dyn Fn(usize) -> u8| u64::from_le_bytes(std::array::from_fn(byte));
        Literal {
            text: text.into(),
            head: word(&|at| text.get(at).copied().unwrap_or_default()),
            mask: word(&|at| if at < text.len() { 0xff } else { 0 }),
            finder: Finder::new(text).into_owned(),
        }
    }

    /// Returns whether the text is at `at`.
    #[inline]
    pub(crate) fn is_at(&self, line: &[u8], at: usize) -> bool {
        let Some(rest) = line.get(at..) else { return false };
        match rest.first_chunk::<8>() {
            Some(chunk) if (u64::from_le_bytes(*chunk) ^ self.head) & self.mask != 0 => false,
            Some(_) if self.text.len() <= 8 => true,
            _ => rest.starts_with(&self.text),
        }
    }
}

/// A field with the text behind it.
#[derive(Debug, Clone)]
pub(super) struct Field {
    name: String,
    pub class: Class,
    pub take: Take,
    pub then: String,
}

/// Whether lines may go on behind what the format describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tail {
    Closed,
    Open,
}

/// Compiles a format.
pub(crate) fn compile(notation: &Notation, tail: Tail) -> Result<Plan, Unusable> {
    let escape = notation.escape;
    let (lead, mut fields) = fields(&notation.text)?;
    if fields.is_empty() {
        return Err(Unusable::NoVariables);
    }
    if escape == Escape::None
        && let Some(field) = fields.iter().find(|field| may_break_the_line(&field.name))
    {
        return Err(Unusable::BreaksLines { variable: field.name.clone() });
    }
    assign(&mut fields)?;
    let path = merge(&mut fields)?;
    let is_time = |field: &&Field| field.take == Take::Time;
    let time = fields.iter().find(is_time).map_or(Class::Text, |field| field.class);
    loop {
        match pieces(&fields, escape, tail) {
            Ok((pieces, addr_piece)) => {
                let has_guess = pieces.iter().any(|piece| piece.guess.is_some());
                return Ok(Plan {
                    has_guess,
                    lead: Literal::new(lead.as_bytes()),
                    pieces,
                    escape,
                    path,
                    time,
                    addr_piece,
                });
            }
            // What is not necessary is given up rather than the format.
            Err(at)
                if matches!(
                    at.hidden.take,
                    Take::Forwarded | Take::Size | Take::Host | Take::Server | Take::Realip | Take::User
                ) =>
            {
                for field in fields.iter_mut().filter(|field| field.take == at.hidden.take) {
                    field.take = Take::Skip;
                }
            }
            Err(at) => return Err(Unusable::Ambiguous { client: at.client, hidden: at.hidden.name }),
        }
    }
}

fn fields(text: &str) -> Result<(String, Vec<Field>), Unusable> {
    let mut lead = String::new();
    let mut fields: Vec<Field> = Vec::new();
    for part in conf::parts(text)? {
        match (part, fields.last_mut()) {
            (Part::Literal(text), None) => lead = text,
            (Part::Literal(text), Some(field)) => field.then = text,
            (Part::Variable(name), _) => {
                let class = Variable::named(&name).class;
                fields.push(Field { name, class, take: Take::Skip, then: String::new() });
            }
        }
    }
    Ok((lead, fields))
}

/// Decides which field is taken for what.
fn assign(fields: &mut [Field]) -> Result<(), Unusable> {
    const ROLES: [Take; 12] = [
        Take::Addr,
        Take::Forwarded,
        Take::Time,
        Take::Request,
        Take::Method,
        Take::Path,
        Take::Args,
        Take::Status,
        Take::Size,
        Take::Host,
        Take::Server,
        Take::User,
    ];
    for role in ROLES {
        let place = |field: &Field| Variable::named(&field.name).role.filter(|(take, _)| *take == role);
        let best = fields
            .iter()
            .enumerate()
            .filter_map(|(at, field)| place(field).map(|(_, place)| (place, at)))
            .min();
        if let Some(field) = best.and_then(|(_, at)| fields.get_mut(at)) {
            field.take = role;
        }
    }
    // Where it is not all that is known of the client.
    if let Some(peer) = fields.iter_mut().find(|field| field.name == REALIP && field.take == Take::Skip) {
        peer.take = Take::Realip;
    }
    let find = |fields: &[Field], take| fields.iter().position(|field| field.take == take);
    if find(fields, Take::Addr).is_none()
        && let Some(at) = find(fields, Take::Forwarded)
    {
        fields[at].take = Take::Addr;
    }
    let drop = |fields: &mut [Field], take| {
        if let Some(at) = find(fields, take) {
            fields[at].take = Take::Skip;
        }
    };
    // The request line has the target as the client sent it; `$uri` is decoded and rewritten.
    let has_request = find(fields, Take::Request).is_some();
    let path = find(fields, Take::Path).map(|at| fields[at].name.clone());
    match path.as_deref() {
        Some("request_uri") => {
            drop(fields, Take::Args);
            if find(fields, Take::Method).is_some() {
                drop(fields, Take::Request);
            }
        }
        Some(_) if has_request => {
            drop(fields, Take::Path);
            drop(fields, Take::Args);
        }
        Some(_) => {}
        None => drop(fields, Take::Args),
    }
    for (take, missing) in
        [(Take::Addr, Missing::Address), (Take::Time, Missing::Time), (Take::Status, Missing::Status)]
    {
        find(fields, take).ok_or(Unusable::Lacks(missing))?;
    }
    Ok(())
}

/// Joins fields that nothing separates, where they mean something together.
fn merge(fields: &mut Vec<Field>) -> Result<PathKind, Unusable> {
    let mut path = PathKind::Whole;
    let mut at = 0;
    while at + 1 < fields.len() {
        let (one, next) = (&fields[at], &fields[at + 1]);
        let touch = one.then.is_empty();
        let is_host = |field: &Field| matches!(field.name.as_str(), "host" | "http_host" | "server_name");
        let joined = match (one.take, next.take) {
            (Take::Path, Take::Args) if touch || one.then == "?" => Some((Take::Path, PathKind::WithArgs)),
            (Take::Path, _) if touch && next.name == "is_args" => Some((Take::Path, PathKind::WithArgs)),
            (_, Take::Path) if touch && is_host(one) => Some((Take::Path, PathKind::BehindHost)),
            (
                Take::Skip | Take::Host | Take::Server | Take::Realip | Take::User,
                Take::Skip | Take::Host | Take::Server | Take::Realip | Take::User,
            ) if touch => Some((Take::Skip, path)),
            _ => None,
        };
        match joined {
            Some((take, kind)) => {
                path = kind;
                let next = fields.remove(at + 1);
                let field = &mut fields[at];
                (field.take, field.class, field.then) = (take, Class::Text, next.then);
                if kind == PathKind::BehindHost && take == Take::Path {
                    field.name = next.name;
                }
            }
            None if touch => {
                return Err(Unusable::Touching { first: one.name.clone(), second: next.name.clone() });
            }
            None => at += 1,
        }
    }
    Ok(path)
}

/// A field that is needed and cannot be found for certain, and the field behind which it hides.
struct Hidden {
    client: String,
    hidden: Field,
}

fn pieces(fields: &[Field], escape: Escape, tail: Tail) -> Result<(Box<[Piece]>, usize), Hidden> {
    let last = fields.iter().rposition(is_needed).unwrap_or(0);
    let mut pieces = Vec::new();
    let mut addr_piece = 0;
    let mut at = 0;
    while at <= last {
        let (piece, len) = piece(&fields[at..], escape, tail)?;
        if fields[at..at + len].iter().any(|field| field.take == Take::Addr) {
            addr_piece = pieces.len();
        }
        pieces.push(piece);
        at += len;
    }
    Ok((pieces.into(), addr_piece))
}

fn is_needed(field: &Field) -> bool {
    !matches!(field.take, Take::Skip | Take::Host | Take::User)
}

/// Makes the piece that begins with the first of these fields; returns it with the number of fields in it.
fn piece(fields: &[Field], escape: Escape, tail: Tail) -> Result<(Piece, usize), Hidden> {
    let (end, len) = end(fields, escape, tail);
    let zone = &fields[..len];
    let first_readable =
        (1..len).rev().find(|at| before(&zone[at - 1], &zone[*at], escape).is_none()).map_or(1, |at| at + 1);
    if first_readable > 1
        && let Some(hidden) = zone[..first_readable].iter().find(|field| field.take != Take::Skip)
    {
        let guess = Guess::of(zone, escape).filter(|_| tail == Tail::Closed);
        let Some(guess) = guess else {
            return Err(Hidden { client: zone[0].name.clone(), hidden: hidden.clone() });
        };
        let piece = Piece {
            first: zone[0].take,
            is_clients: true,
            back: Box::default(),
            end,
            then: Literal::new(zone[len - 1].then.as_bytes()),
            guess: Some(Box::new(guess)),
            has_backslash: zone.iter().any(|field| field.then.contains('\\')),
        };
        return Ok((piece, len));
    }
    let back = (first_readable..len).rev().filter_map(|at| before(&zone[at - 1], &zone[at], escape));
    let piece = Piece {
        first: if first_readable > 1 { Take::Skip } else { zone[0].take },
        is_clients: zone[..first_readable]
            .iter()
            .any(|field| matches!(field.class, Class::Text | Class::Host)),
        back: back.collect(),
        end,
        then: Literal::new(zone[len - 1].then.as_bytes()),
        guess: None,
        has_backslash: zone.iter().any(|field| field.then.contains('\\')),
    };
    Ok((piece, len))
}

/// Finds the first text that ends the fields before it for certain; returns how it is found and the number of fields.
fn end(fields: &[Field], escape: Escape, tail: Tail) -> (End, usize) {
    for len in 1..=fields.len() {
        let field = &fields[len - 1];
        if len == 1 && field.class == Class::TimeLocal {
            return (End::Fixed(TIME_LOCAL_BYTES), 1);
        }
        let is_foreign =
            |byte: u8| fields[..len].iter().all(|field| !may_contain(field.class, escape, byte, true));
        if let Some((back, byte)) = field.then.bytes().enumerate().find(|(_, byte)| is_foreign(*byte)) {
            let is_escaped = byte == b'"' && escape != Escape::None;
            let end = if is_escaped { End::Quote { back } } else { End::Byte { byte, back } };
            return (end, len);
        }
        if len == 1 && fields.len() == 1 && field.then.is_empty() && tail == Tail::Open {
            return (End::Open, 1);
        }
    }
    (End::Line, fields.len())
}

/// Makes the step that reads `field` from its end, if the text before it bounds it for certain.
fn before(previous: &Field, field: &Field, escape: Escape) -> Option<Back> {
    let text = previous.then.as_bytes();
    let start = match text.iter().rposition(|byte| !may_contain(field.class, escape, *byte, false)) {
        Some(at) => Start::Behind { byte: text[at], distance: text.len() - at },
        None if field.class == Class::TimeLocal => Start::Fixed(TIME_LOCAL_BYTES),
        None => return None,
    };
    Some(Back { take: field.take, before: Literal::new(text), start })
}
