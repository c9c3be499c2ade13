//! Whose network an address is in, and in which country: by databases in MaxMind's format that the operator keeps on this host
//! (`[page] asn_db`, `country_db`). Only shown, on the page and in the API; nothing is decided by it.
//!
//! A task of the API's runtime reads the files, at the start and when they were replaced, and hands over what it has read.
//! A file that is missing or broken is the state of a part, and what was read before stays in use.

#[cfg(any(test, feature = "test-support"))]
pub mod mmdb;

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use maxminddb::Reader;
use serde::Deserialize;
use shield_engine::event::{PartReport, PartState};

use crate::api::types::AddressOwner;
use crate::file_stamp::Stamp;
use crate::text;

/// Time between two looks for a replaced file. The databases' makers publish a few times a week.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A larger file is no database of this kind, and would only take memory: those of all countries and networks have some 10 to
/// 100 MB.
const MAX_BYTES: u64 = 512 << 20;

/// Characters of a name that are shown.
const MAX_NAME: usize = 80;

/// What a database tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Asn,
    Country,
}

impl Kind {
    /// The part's name, and that of the key.
    fn name(self) -> &'static str {
        match self {
            Kind::Asn => "asn_db",
            Kind::Country => "country_db",
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Kind::Asn => "the networks' owners are not shown",
            Kind::Country => "countries are not shown",
        }
    }

    /// What the names of fitting databases have in them: `GeoLite2-ASN`, `DBIP-City-Lite`.
    fn types(self) -> &'static [&'static str] {
        match self {
            Kind::Asn => &["ASN", "ISP"],
            Kind::Country => &["Country", "City", "Enterprise"],
        }
    }
}

type Database = Reader<Vec<u8>>;

#[derive(Deserialize)]
struct AsnRecord {
    autonomous_system_number: Option<u32>,
    autonomous_system_organization: Option<String>,
}

#[derive(Deserialize)]
struct CountryRecord {
    country: Option<CountryName>,
}

#[derive(Deserialize)]
struct CountryName {
    iso_code: Option<String>,
}

/// The databases in use; empty until they are read.
#[derive(Default)]
pub(crate) struct AddressOwners {
    asn: RwLock<Option<Arc<Database>>>,
    country: RwLock<Option<Arc<Database>>>,
}

impl AddressOwners {
    /// What is known of an address; `None` without a database, or where none knows it. Some microseconds.
    pub(crate) fn of(&self, addr: IpAddr) -> Option<AddressOwner> {
        let asn = self.database(Kind::Asn).and_then(|db| record::<AsnRecord>(&db, addr));
        let country = self.database(Kind::Country).and_then(|db| record::<CountryRecord>(&db, addr));
        let owner = AddressOwner {
            asn: asn.as_ref().and_then(|asn| asn.autonomous_system_number),
            name: asn.and_then(|asn| asn.autonomous_system_organization).map(|name| shown(&name)),
            country: country.and_then(|found| found.country?.iso_code).map(|code| shown(&code)),
        };
        (owner != AddressOwner::default()).then_some(owner)
    }

    fn slot(&self, kind: Kind) -> &RwLock<Option<Arc<Database>>> {
        match kind {
            Kind::Asn => &self.asn,
            Kind::Country => &self.country,
        }
    }

    fn database(&self, kind: Kind) -> Option<Arc<Database>> {
        self.slot(kind).read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, kind: Kind, database: Database) {
        *self.slot(kind).write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(database));
    }
}

fn record<'db, T: Deserialize<'db>>(database: &'db Database, addr: IpAddr) -> Option<T> {
    database.lookup(addr).ok()?.decode().ok()?
}

/// A name for people: the file is somebody else's.
fn shown(name: &str) -> String {
    text::printable(&name.chars().take(MAX_NAME).collect::<String>())
}

/// Where the databases are; `None` where the configuration names none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    pub asn: Option<PathBuf>,
    pub country: Option<PathBuf>,
}

impl Settings {
    fn files(self) -> impl Iterator<Item = (Kind, PathBuf)> {
        [(Kind::Asn, self.asn), (Kind::Country, self.country)]
            .into_iter()
            .filter_map(|(kind, path)| Some((kind, path?)))
    }

    /// A sentence for each database that cannot be used.
    pub(crate) fn problems(&self) -> Vec<String> {
        let unusable = |(kind, path): (Kind, PathBuf)| {
            let error = read(kind, &path).err()?;
            Some(format!("[page] {}: {error:#}; {}", kind.name(), kind.missing()))
        };
        self.clone().files().filter_map(unusable).collect()
    }
}

/// Reads the databases, and again when a file was replaced, for as long as the agent runs. A replaced file is taken by its size,
/// time and number, as it is renamed into its place.
pub(crate) async fn keep(
    owners: Arc<AddressOwners>,
    settings: Settings,
    mut report: impl FnMut(PartReport) + Send,
) {
    let mut files: Vec<Watched> =
        settings.files().map(|(kind, path)| Watched { kind, path, seen: None }).collect();
    while !files.is_empty() {
        let owners = Arc::clone(&owners);
        let looked = tokio::task::spawn_blocking(move || {
            let states: Vec<_> = files.iter_mut().filter_map(|file| file.look(&owners)).collect();
            (files, states)
        });
        // Fails when the runtime ends.
        let Ok((back, states)) = looked.await else { return };
        files = back;
        states.into_iter().for_each(&mut report);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

struct Watched {
    kind: Kind,
    path: PathBuf,
    /// The outer `None` before the first look, the inner one while there is no file.
    seen: Option<Option<Stamp>>,
}

impl Watched {
    /// Reads the file if it is not the one of the last look.
    fn look(&mut self, owners: &AddressOwners) -> Option<PartReport> {
        let stamp = Stamp::of(&self.path);
        if self.seen == Some(stamp) {
            return None;
        }
        self.seen = Some(stamp);
        let state = match read(self.kind, &self.path) {
            Ok(database) => {
                let detail = format!("{} of {}", self.path.display(), built(&database));
                owners.put(self.kind, database);
                PartState::Active { detail }
            }
            Err(error) => PartState::Degraded { reason: self.trouble(&error, owners) },
        };
        Some(PartReport { part: self.kind.name().to_owned(), state, repaired: None })
    }

    fn trouble(&self, error: &anyhow::Error, owners: &AddressOwners) -> String {
        let effect = match owners.database(self.kind) {
            Some(_) => "what was read before stays in use",
            None => self.kind.missing(),
        };
        format!(
            "{error:#}; {effect}. Put a database there, or take {} out of [page]; bans do not depend on it",
            self.kind.name()
        )
    }
}

/// The day on which its maker made it.
fn built(database: &Database) -> String {
    let secs = i64::try_from(database.metadata().build_epoch).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(secs).map(|time| time.strftime("%Y-%m-%d").to_string());
    time.unwrap_or_else(|_| "an unknown day".to_owned())
}

fn read(kind: Kind, path: &Path) -> Result<Database> {
    let shown = path.display();
    let file = File::open(path).with_context(|| format!("could not open {shown}"))?;
    let meta = file.metadata().with_context(|| format!("could not look at {shown}"))?;
    if !meta.is_file() {
        bail!("{shown} is no file");
    }
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).with_context(|| format!("could not read {shown}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{shown} has more than {}, which no such database has", text::bytes(MAX_BYTES));
    }
    let database = Reader::from_source(bytes)
        .with_context(|| format!("could not read {shown} as a whole database of MaxMind's format"))?;
    let own = database.metadata().database_type.clone();
    if !kind.types().iter().any(|fits| own.contains(fits)) {
        bail!(
            "{shown} is a database of the type {:?}, and not one of {}",
            self::shown(&own),
            kind.types().join(" or ")
        );
    }
    Ok(database)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::mmdb::{asn, country, mmdb};
    use super::*;

    fn watched(kind: Kind, path: &Path) -> Watched {
        Watched { kind, path: path.to_owned(), seen: None }
    }

    fn reason(report: Option<PartReport>) -> String {
        match report.unwrap().state {
            PartState::Degraded { reason } => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_has_the_owner_and_the_country_that_the_databases_name() {
        let folder = tempfile::tempdir().unwrap();
        let (asns, countries) = (folder.path().join("a"), folder.path().join("c"));
        // IPv4 is in the tree's first 96 bits.
        let networks = [
            ("::c633:6400/120", asn(64_500, "Example\u{202e} Hosting")),
            ("2001:db8::/32", asn(64_501, "Six")),
        ];
        fs::write(&asns, mmdb("GeoLite2-ASN", &networks)).unwrap();
        fs::write(&countries, mmdb("DBIP-Country-Lite", &[("::c633:0/112", country("DE"))])).unwrap();
        let owners = AddressOwners::default();
        let of = |addr: &str| owners.of(addr.parse().unwrap());
        assert_eq!(of("198.51.100.7"), None, "nothing is read yet");
        for (kind, path) in [(Kind::Asn, &asns), (Kind::Country, &countries)] {
            let report = watched(kind, path).look(&owners).unwrap();
            let PartState::Active { detail } = report.state else { panic!("{report:?}") };
            assert!(detail.ends_with(" of 2026-08-30"), "{detail}");
        }
        let found = of("198.51.100.7").unwrap();
        assert_eq!((found.asn, found.country.as_deref()), (Some(64_500), Some("DE")));
        assert_eq!(found.name.as_deref(), Some("Example\\u{202e} Hosting"), "no name turns the text round");
        assert_eq!(of("2001:db8::7").unwrap().asn, Some(64_501));
        assert_eq!(of("192.0.2.1"), None);
    }

    #[test]
    fn a_missing_or_broken_file_is_a_state_and_the_last_good_one_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("asn.mmdb");
        let owners = AddressOwners::default();
        let mut file = watched(Kind::Asn, &path);
        let missing = reason(file.look(&owners));
        assert!(
            missing.contains("could not open") && missing.contains("take asn_db out of [page]"),
            "{missing}"
        );
        assert_eq!(file.look(&owners), None, "said once");
        let whole = mmdb("GeoLite2-ASN", &[("::c633:6400/120", asn(64_500, "Example"))]);
        fs::write(&path, &whole).unwrap();
        assert!(matches!(file.look(&owners).unwrap().state, PartState::Active { .. }));
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let broken = reason(file.look(&owners));
        assert!(broken.contains("as a whole database") && broken.contains("stays in use"), "{broken}");
        assert_eq!(owners.of("198.51.100.7".parse().unwrap()).unwrap().asn, Some(64_500));
        fs::write(&path, mmdb("GeoLite2-Country", &[])).unwrap();
        assert!(reason(file.look(&owners)).contains("not one of ASN or ISP"));
        let settings = Settings { asn: Some(path.clone()), country: Some(folder.path().join("none")) };
        let problems = settings.problems();
        assert!(
            problems[0].starts_with("[page] asn_db: ") && problems[1].starts_with("[page] country_db: "),
            "{problems:?}"
        );
        let directory = reason(watched(Kind::Asn, folder.path()).look(&owners));
        assert!(directory.contains("is no file"), "{directory}");
    }

    /// Whatever is in the file, an address is known or not.
    #[test]
    fn a_damaged_file_is_refused_or_read_and_never_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("asn.mmdb");
        let whole = mmdb("GeoLite2-ASN", &[("::c633:6400/120", asn(64_500, "Example"))]);
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            fs::write(&path, damaged).unwrap();
            let owners = AddressOwners::default();
            watched(Kind::Asn, &path).look(&owners);
            let _known_or_not = owners.of("198.51.100.7".parse().unwrap());
        }
    }
}
