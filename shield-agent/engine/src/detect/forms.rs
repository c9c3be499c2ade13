//! Posts that are refused at a form which usually accepts them: cards, coupons and codes that are tried one by one. What is
//! normal is learned for each form, from how many different clients it accepts and refuses. At a form that hardly anybody used yet
//! a client that was never accepted may be wrong (402, 419, 422) now and then, but not all the time.
//!
//! What is learned takes effect when the second has ended, so that the order of a second's lines makes no difference.

/// The most forms that are learned. Beyond it the one with the fewest clients gives way: a client that posts to many
/// paths displaces only others of its own.
const MAX_FORMS: usize = 128;

/// Habits are learned slot by slot.
const SLOT_SECS: u32 = 600;

/// In one slot no more clients than this teach, so that a campaign does not become a habit within an hour.
const TEACHERS_PER_SLOT: u32 = 4;

/// Clients that a form must have accepted before its refusals mean anything, and how many times more than it refused.
const MIN_ACCEPTED: u32 = 8;
const ACCEPTED_TO_REFUSED: u32 = 4;

/// When so many clients are refused within a slot, and so many times more than the form usually has, they are a campaign.
const CAMPAIGN_CLIENTS: u32 = 8;
const CAMPAIGN_TIMES: u32 = 4;

/// Weights in tenths of a failed path. A post counts once a second.
const REFUSED: u8 = 5;
const BROKEN: u8 = 3;
const IN_A_CAMPAIGN: u8 = 20;
const AT_A_NEW_FORM: u8 = 2;

/// A set of clients, as bits: an estimate from below, and small.
type Clients = u64;

/// Clients that were accepted, for about a day: those whose session has run out are refused by no fault of theirs.
type Known = [u64; 16];

/// Known clients are forgotten after two of these.
const GENERATION_SECS: u32 = 43_200;

#[derive(Debug, Clone, Default)]
struct Form {
    path: u64,
    /// The order in which forms were learned.
    serial: u64,
    /// Of all slots that ended, at most [`TEACHERS_PER_SLOT`] each.
    accepted: u32,
    refused: u32,
    /// The clients of the usual slot, in eighths.
    usual: u32,
    slot: u32,
    in_slot: Answers,
    /// Answers of this second take effect after it.
    second: u32,
    in_second: Answers,
    generation: u32,
    known: [Known; 2],
}

#[derive(Debug, Clone, Copy, Default)]
struct Answers {
    accepted: Clients,
    refused: Clients,
}

/// The forms of the site.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forms {
    forms: Vec<Form>,
    learned: u64,
}

impl Forms {
    /// Learns the answer to a post, and returns what it weighs against its client, in tenths of a failed path: 0 where it
    /// says nothing. `path` is a hash of the path that is the same in every process, and so is `client`.
    pub(crate) fn answered(&mut self, path: u64, client: u64, status: u16, second: u32) -> u8 {
        let is_accepted = matches!(status, 200..=303 | 307);
        let is_refused = matches!(status, 400..=403 | 419 | 422 | 429 | 500);
        if !is_accepted && !is_refused {
            return 0;
        }
        let form = self.form(path);
        form.advance(second);
        let bit = 1 << (client >> 58);
        let weight = if is_refused { form.weight(status, client, bit) } else { 0 };
        if is_accepted {
            form.in_second.accepted |= bit;
            let (word, bit) = place(client);
            form.known[0][word] |= bit;
        } else {
            form.in_second.refused |= bit;
        }
        weight
    }

    fn form(&mut self, path: u64) -> &mut Form {
        let at = match self.forms.iter().position(|form| form.path == path) {
            Some(at) => at,
            None => {
                self.learned += 1;
                let form = Form { path, serial: self.learned, ..Form::default() };
                let least = |at: &usize| (self.forms[*at].accepted, self.forms[*at].serial);
                if self.forms.len() == MAX_FORMS
                    && let Some(least) = (0..MAX_FORMS).min_by_key(least)
                {
                    self.forms[least] = form;
                    least
                } else {
                    self.forms.push(form);
                    self.forms.len() - 1
                }
            }
        };
        &mut self.forms[at]
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.forms.len()
    }
}

impl Form {
    fn advance(&mut self, second: u32) {
        if second <= self.second {
            return;
        }
        let slot = second / SLOT_SECS;
        self.in_slot.accepted |= self.in_second.accepted;
        self.in_slot.refused |= self.in_second.refused;
        self.in_second = Answers::default();
        self.second = second;
        if slot > self.slot {
            let (accepted, refused) = (self.in_slot.accepted.count_ones(), self.in_slot.refused.count_ones());
            self.accepted += accepted.min(TEACHERS_PER_SLOT);
            if !self.is_campaign(refused) {
                self.refused += refused.min(TEACHERS_PER_SLOT);
            }
            self.usual = (7 * self.usual + 8 * accepted).div_ceil(8);
            // Old habits fade.
            if self.accepted + self.refused > 1000 {
                (self.accepted, self.refused) = (self.accepted / 2, self.refused / 2);
            }
            (self.slot, self.in_slot) = (slot, Answers::default());
        }
        let generation = second / GENERATION_SECS;
        if generation > self.generation {
            let is_next = generation == self.generation + 1;
            self.known = [Known::default(), if is_next { self.known[0] } else { Known::default() }];
            self.generation = generation;
        }
    }

    fn weight(&self, status: u16, client: u64, bit: Clients) -> u8 {
        if self.accepted < MIN_ACCEPTED {
            let others = (self.in_slot.refused & !bit).count_ones();
            let is_own_fault = matches!(status, 402 | 419 | 422) && others == 0 && !self.knows(client);
            return if is_own_fault { AT_A_NEW_FORM } else { 0 };
        }
        if self.accepted < ACCEPTED_TO_REFUSED * self.refused {
            return 0;
        }
        // A session that has run out, or a program that is out of date: it goes on by itself.
        if matches!(status, 400 | 401 | 403 | 419) && self.knows(client) {
            return 0;
        }
        let refused = (self.in_slot.refused & !bit).count_ones();
        let is_campaign = self.is_campaign(refused);
        let others_are_accepted = self.in_slot.accepted & !bit != 0;
        match status {
            _ if is_campaign && status != 500 => IN_A_CAMPAIGN,
            // It fails for everybody, or nobody else is there to tell.
            500 if !others_are_accepted => 0,
            500 => BROKEN,
            _ if refused >= 2 && !others_are_accepted => 0,
            _ => REFUSED,
        }
    }

    /// Whether so many clients refused within a slot are far more than the form usually has.
    fn is_campaign(&self, refused: u32) -> bool {
        refused >= CAMPAIGN_CLIENTS && 8 * refused >= CAMPAIGN_TIMES * self.usual.max(8)
    }

    fn knows(&self, client: u64) -> bool {
        let (word, bit) = place(client);
        self.known.iter().any(|known| known[word] & bit != 0)
    }
}

fn place(client: u64) -> (usize, u64) {
    ((client >> 40) as usize % 16, 1 << (client >> 48 & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u32 = 1_767_600_000;

    /// A spread of clients by number.
    fn client(n: u64) -> u64 {
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// A form that accepted four clients in each of ten slots, and the second after them.
    fn known() -> (Forms, u32) {
        let mut forms = Forms::default();
        for slot in 0..10 {
            for n in 0..4 {
                forms.answered(1, client(100 + n), 200, START + slot * SLOT_SECS + n as u32);
            }
        }
        (forms, START + 10 * SLOT_SECS)
    }

    #[test]
    fn refusals_weigh_only_where_a_form_accepts() {
        let (mut forms, second) = known();
        assert_eq!(forms.answered(1, client(1), 422, second), REFUSED);
        assert_eq!(forms.answered(1, client(1), 404, second + 1), 0, "there is no form");
        assert_eq!(forms.answered(2, client(1), 422, second + 1), AT_A_NEW_FORM, "a form that nobody knows");
        assert_eq!(forms.answered(2, client(1), 403, second + 2), 0, "which may refuse everybody");
        assert_eq!(forms.answered(2, client(2), 422, second + 3), 0, "and does");
        assert_eq!(forms.answered(1, client(101), 419, second + 2), 0, "a session has run out");
        assert_eq!(forms.answered(1, client(101), 429, second + 3), REFUSED);
        for (status, weight) in [(400, 0), (401, 0), (402, REFUSED)] {
            assert_eq!(forms.answered(1, client(1), status, second + 4), REFUSED, "{status} to a stranger");
            assert_eq!(
                forms.answered(1, client(101), status, second + 5),
                weight,
                "{status} to who is known"
            );
        }
    }

    #[test]
    fn what_fails_for_everybody_is_the_servers_fault() {
        let (mut forms, second) = known();
        let weights: Vec<_> =
            (0..7).map(|n| forms.answered(1, client(200 + n), 403, second + n as u32)).collect();
        assert_eq!(weights, [REFUSED, REFUSED, 0, 0, 0, 0, 0]);
        assert_eq!(forms.answered(1, client(300), 500, second + 20), 0);
        forms.answered(1, client(100), 200, second + 21);
        assert_eq!(forms.answered(1, client(300), 500, second + 22), BROKEN);
    }

    #[test]
    fn many_refused_addresses_are_a_campaign() {
        let (mut forms, second) = known();
        let weights: Vec<_> =
            (0..60).map(|n| forms.answered(1, client(200 + n), 422, second + n as u32)).collect();
        assert_eq!(weights[59], IN_A_CAMPAIGN, "{weights:?}");
        for slot in 1..200 {
            (0..60).for_each(|n| {
                forms.answered(1, client(200 + n), 422, second + slot * SLOT_SECS + n as u32);
            });
        }
        assert_eq!(
            forms.answered(1, client(1), 422, second + 200 * SLOT_SECS),
            REFUSED,
            "it becomes no habit"
        );
    }

    #[test]
    fn a_form_that_refuses_by_habit_is_left_alone() {
        let mut forms = Forms::default();
        for slot in 0..10 {
            for n in 0..4 {
                let status = if n < 2 { 200 } else { 422 };
                forms.answered(1, client(100 + n), status, START + slot * SLOT_SECS + n as u32);
            }
        }
        assert_eq!(forms.answered(1, client(1), 422, START + 10 * SLOT_SECS), 0);
    }

    #[test]
    fn posts_to_many_paths_displace_no_form_in_use() {
        let (mut forms, second) = known();
        (0..10_000).for_each(|n| {
            forms.answered(1000 + n, client(1), 200, second);
        });
        assert_eq!(forms.len(), MAX_FORMS);
        assert_eq!(forms.answered(1, client(1), 422, second + 1), REFUSED);
    }

    #[test]
    fn the_order_of_a_seconds_posts_makes_no_difference() {
        let (forms, second) = known();
        let posts = [(1, 200), (2, 422), (3, 422), (4, 500), (5, 403), (1, 422)];
        let weights = |order: &[usize]| {
            let mut forms = forms.clone();
            let mut all: Vec<_> = order
                .iter()
                .map(|at| (*at, forms.answered(1, client(posts[*at].0), posts[*at].1, second)))
                .collect();
            all.sort_unstable();
            all
        };
        assert_eq!(weights(&[0, 1, 2, 3, 4, 5]), weights(&[5, 3, 1, 4, 2, 0]));
    }
}
