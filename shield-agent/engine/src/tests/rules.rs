//! The operators' own rules: what is asked, what becomes of the answer, and of none.

use super::safeguards::{banned, engine_with, why_not_banned};
use super::*;
use crate::detect::policy::Switch;
use crate::rules::{PolicyAnswer, PolicyQuestion};
use crate::settings::RulesSettings;
use crate::vocab::action::BanRecord;
use crate::vocab::policy::{PolicyAction, PolicyTerm, PolicyWord};
use crate::vocab::slow::SlowGrounds;

fn asking(on_error: PolicyAction) -> Engine {
    engine_with(|settings| settings.rules = RulesSettings { switch: Switch::On, on_error })
}

fn questions(actions: &[Action]) -> Vec<&PolicyQuestion> {
    fn question(action: &Action) -> Option<&PolicyQuestion> {
        if let Action::AskPolicy(question) = action { Some(question) } else { None }
    }
    actions.iter().filter_map(question).collect()
}

fn word(action: PolicyAction) -> PolicyWord {
    PolicyWord { action, term: None, because: Some("the nightly import".to_owned()), failed: None }
}

fn answer(question: &PolicyQuestion, word: Result<PolicyWord, String>) -> Event<'static> {
    Event::Policy(vec![PolicyAnswer { id: question.id, client: question.client, word }])
}

/// Asks about 203.0.113.5 and answers.
fn answered(engine: &mut Engine, word: Result<PolicyWord, String>) -> Vec<Action> {
    let asked = offend(engine, "203.0.113.5", T0);
    assert_eq!((banned(&asked).len(), questions(&asked).len()), (0, 1), "{asked:?}");
    engine.handle(answer(questions(&asked)[0], word), T0)
}

fn record(actions: &[Action]) -> &BanRecord {
    fn saved(action: &Action) -> Option<&BanRecord> {
        if let Action::Persist(Record::Banned(record)) = action { Some(record) } else { None }
    }
    actions.iter().find_map(saved).expect("a ban is stored")
}

#[test]
fn a_verdict_waits_for_the_answer_which_is_kept_with_the_ban() {
    let mut engine = asking(PolicyAction::Ban);
    let term = Some(PolicyTerm::Secs(77));
    let actions = answered(&mut engine, Ok(PolicyWord { term, ..word(PolicyAction::Ban) }));
    assert_eq!(banned(&actions), ["203.0.113.5"]);
    let record = record(&actions);
    assert_eq!(record.ban.ends, Ends::after(T0, 77_000));
    let kept = record.evidence.as_ref().unwrap().policy.as_ref().unwrap();
    assert_eq!((kept.action, kept.because.as_deref()), (PolicyAction::Ban, Some("the nightly import")));
}

#[test]
fn a_spared_client_is_told_of_once_and_judged_again_soon() {
    let mut engine = asking(PolicyAction::Ban);
    let actions = answered(&mut engine, Ok(word(PolicyAction::Observe)));
    assert_eq!(banned(&actions), [""; 0]);
    assert_eq!(why_not_banned(&actions), Some("the policy spares it: the nightly import"));
    let client = client("203.0.113.5");
    assert!(engine.is_suppressed(client, T0.plus_ms(9_999)));
    assert!(!engine.is_suppressed(client, T0.plus_ms(10_000)));
    let again = answered(&mut engine, Ok(word(PolicyAction::Observe)));
    assert_eq!(why_not_banned(&again), None, "{again:?}");
}

#[test]
fn a_slowed_client_is_in_the_slow_lane_for_that_reason() {
    let mut engine = engine_with(|settings| {
        settings.rules = RulesSettings { switch: Switch::On, on_error: PolicyAction::Ban };
        settings.enforcers.clear();
    });
    let actions = answered(&mut engine, Ok(word(PolicyAction::Slow)));
    assert_eq!(banned(&actions), [""; 0]);
    let slowed = engine.slowed_over(client("203.0.113.5")).expect("it is slowed");
    assert_eq!(slowed.grounds, SlowGrounds::Policy);
}

#[test]
fn without_an_answer_what_is_configured_holds() {
    let check = |on_error, expected: &[&str]| {
        let mut engine = asking(on_error);
        let actions = answered(&mut engine, Err("it broke".to_owned()));
        assert_eq!(banned(&actions), expected, "{on_error:?}");
        // The same where no answer comes at all.
        let mut engine = asking(on_error);
        let asked = offend(&mut engine, "203.0.113.5", T0);
        assert_eq!(banned(&engine.handle(Event::Tick, T0.plus_ms(1_999))), [""; 0]);
        assert_eq!(banned(&engine.handle(Event::Tick, T0.plus_ms(2_000))), expected, "{on_error:?}");
        let late =
            engine.handle(answer(questions(&asked)[0], Ok(word(PolicyAction::Ban))), T0.plus_ms(2_001));
        assert!(late.is_empty(), "an answer that comes late is none: {late:?}");
    };
    check(PolicyAction::Ban, &["203.0.113.5"]);
    check(PolicyAction::Observe, &[]);
    let mut engine = asking(PolicyAction::Ban);
    let actions = answered(&mut engine, Err("it broke".to_owned()));
    let kept = record(&actions).evidence.as_ref().unwrap().policy.clone().unwrap();
    assert_eq!(kept.failed.as_deref(), Some("it broke"));
}

/// No answer overrules the allowlist, nor an operator's unban meanwhile.
#[test]
fn what_an_operator_does_meanwhile_holds() {
    let mut engine = asking(PolicyAction::Ban);
    let asked = offend(&mut engine, "203.0.113.5", T0);
    let allow = Command::Allow { clients: vec![client("203.0.113.5")], secs: None, reason: None };
    engine.handle(Event::Command(CommandId(3), allow), T0);
    let answer = |asked: &[Action]| answer(questions(asked)[0], Ok(word(PolicyAction::Ban)));
    assert_eq!(banned(&engine.handle(answer(&asked), T0)), [""; 0]);

    let mut engine = asking(PolicyAction::Ban);
    let asked = offend(&mut engine, "203.0.113.5", T0);
    engine.handle(unban_command("203.0.113.5"), T0);
    assert_eq!(banned(&engine.handle(answer(&asked), T0)), [""; 0]);
}

/// History: a stop forgot the questions under way, and after the restart nobody knew of the verdicts.
#[test]
fn at_a_stop_what_is_configured_holds_for_the_questions_under_way() {
    let check = |on_error, expected: &[&str]| {
        let mut engine = asking(on_error);
        offend(&mut engine, "203.0.113.5", T0);
        assert!(engine.awaits_rules());
        let saved = engine.save(T0);
        assert_eq!(banned(&saved), expected, "{on_error:?}");
        assert!(!engine.awaits_rules());
        let bans = engine.ledger().len() as u64;
        assert!(saved.contains(&Action::Announce(Notice::Stopping { bans })), "{saved:?}");
    };
    check(PolicyAction::Ban, &["203.0.113.5"]);
    check(PolicyAction::Observe, &[]);
    let mut engine = asking(PolicyAction::Ban);
    offend(&mut engine, "203.0.113.5", T0);
    let kept = record(&engine.save(T0)).evidence.as_ref().unwrap().policy.clone().unwrap();
    assert!(kept.failed.unwrap().contains("stopped before an answer"));
}

#[test]
fn what_operators_want_is_not_asked_about() {
    let mut engine = asking(PolicyAction::Observe);
    let actions = engine.handle(ban_command("203.0.113.5", None), T0);
    assert!(questions(&actions).is_empty());
    assert_eq!(banned(&actions), ["203.0.113.5"]);
}

/// A storm neither waits nor grows without end.
#[test]
fn of_more_questions_than_can_wait_what_is_configured_holds_at_once() {
    let mut engine = asking(PolicyAction::Ban);
    let mut asked = 0;
    for n in 0..10_001u32 {
        let actions = offend(&mut engine, &format!("100.{}.{}.1", 64 + n / 256, n % 256), T0);
        asked += questions(&actions).len();
        let expected = usize::from(n == 10_000);
        assert_eq!(banned(&actions).len(), expected, "{n}");
    }
    assert_eq!(asked, 10_000);
    let all = engine.handle(Event::Tick, T0.plus_ms(2_000));
    assert_eq!(banned(&all).len(), 10_000);
}
