//! The busiest clients with their JSON, which is written once for all who ask within a second: a list of a thousand takes a
//! millisecond to write, and many may ask for it without a pause.

use axum::body::Bytes;

use super::types::ClientList;

/// The end of a list's JSON, behind its clients.
const END: &[u8] = b"]}";

pub(super) struct Top {
    list: ClientList,
    json: Bytes,
    /// Where the first 0, 1, 2... clients end in `json`.
    ends: Vec<usize>,
}

impl Top {
    pub(super) fn new(list: ClientList) -> Top {
        let (json, ends) =
            written(&list).expect("the API's types have only text keys and cannot fail to be written");
        Top { list, json: json.into(), ends }
    }

    /// The first `n` clients, or all.
    pub(super) fn first(&self, n: usize) -> ClientList {
        ClientList { clients: self.list.clients.iter().take(n).cloned().collect(), ..self.list }
    }

    /// The same as JSON.
    pub(super) fn json(&self, n: usize) -> Bytes {
        match self.ends.get(n) {
            Some(end) if n < self.list.clients.len() => [&self.json[..*end], END].concat().into(),
            _ => self.json.clone(),
        }
    }
}

fn written(list: &ClientList) -> serde_json::Result<(Vec<u8>, Vec<usize>)> {
    let mut json = serde_json::to_vec(&ClientList { clients: Vec::new(), ..*list })?;
    // The clients are the last field.
    json.truncate(json.len() - END.len());
    let mut ends = vec![json.len()];
    for (at, client) in list.clients.iter().enumerate() {
        if at > 0 {
            json.push(b',');
        }
        serde_json::to_writer(&mut json, client)?;
        ends.push(json.len());
    }
    json.extend_from_slice(END);
    Ok((json, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{ClientActivity, ClientState};

    #[test]
    fn the_json_of_each_length_is_that_of_the_list_cut_there() {
        let activity = |n: u8| ClientActivity {
            client: std::net::Ipv4Addr::new(192, 0, 2, n).into(),
            rate: f64::from(n) / 3.0,
            requests: 20 - u32::from(n),
            errors: 0,
            z_score: -0.5,
            state: ClientState::Normal,
        };
        for length in [0, 1, 2, 7] {
            let list =
                ClientList { window_secs: 60, now_ms: 5, clients: (0..length).map(activity).collect() };
            let top = Top::new(list);
            for n in [0, 1, 2, 6, 7, 8, 1_000] {
                let expected = serde_json::to_string(&top.first(n)).unwrap();
                assert_eq!(std::str::from_utf8(&top.json(n)).unwrap(), expected, "{n} of {length}");
            }
            assert_eq!(
                top.json(7).as_ptr(),
                top.json(1_000).as_ptr(),
                "a whole list is shared and not copied"
            );
        }
    }
}
