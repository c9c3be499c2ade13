//! Rego, evaluated by regorus. Nothing here knows what is decided, nor that it runs in a process of its own.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::{ExecutionTimerConfig, LimitError};
use regorus::{Engine, Value};
use serde::{Deserialize, Serialize};

use super::bundle::Bundle;

/// Steps between two looks at the clock.
const CHECK_EVERY: NonZeroU32 = NonZeroU32::new(64).expect("it is not zero");
/// Lines of a trace, and printed texts, at most.
const MAX_TRACE: usize = 200;

/// Something wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mistake {
    /// `FILE:LINE:COLUMN`, or the file alone.
    pub place: String,
    pub message: String,
    /// The line itself, where it is known.
    pub line: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        match &self.line {
            Some(line) => write!(f, "\n    {}", line.trim_end()),
            None => Ok(()),
        }
    }
}

impl Mistake {
    /// Takes regorus' message apart: `--> FILE:LINE:COL`, the line, a mark below it, `error: WHAT`.
    fn of(error: &anyhow::Error, file: &str) -> Mistake {
        let text = error.to_string();
        let place = text.lines().find_map(|line| line.trim().strip_prefix("--> "));
        let what = text.lines().rev().find_map(|line| line.trim().strip_prefix("error: "));
        let line = text.lines().find_map(|line| {
            let (number, line) = line.trim_start().split_once('|')?;
            number.trim().parse::<u32>().ok()?;
            Some(line.strip_prefix(' ').unwrap_or(line).to_owned())
        });
        match (place, what) {
            (Some(place), Some(what)) => {
                Mistake { place: place.trim().to_owned(), message: what.to_owned(), line }
            }
            _ => Mistake { place: file.to_owned(), message: one_line(&text), line: None },
        }
    }
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    TimedOut,
    /// The error in one line, with its place.
    Error(String),
}

/// What led to a decision.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Trace {
    /// The lines that were evaluated, each with its place.
    pub lines: Vec<String>,
    /// What `print` was called with.
    pub printed: Vec<String>,
}

/// Loaded rules.
pub(crate) struct Evaluator {
    engine: Engine,
}

impl Evaluator {
    /// Loads all files.
    ///
    /// # Errors
    /// All mistakes of the files that cannot be read as Rego; only if there are none, those between the files.
    pub(crate) fn new(bundle: &Bundle, limit: Duration) -> Result<Evaluator, Vec<Mistake>> {
        let mut engine = Engine::new();
        engine.set_rego_v0(false);
        let mut mistakes = Vec::new();
        for file in &bundle.files {
            if let Err(error) = engine.add_policy(file.path.clone(), file.text.clone()) {
                mistakes.push(Mistake::of(&error, &file.path));
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        engine.set_gather_prints(true);
        // Finds what only all files together show: unsafe variables, rules that contradict each other.
        if let Err(error) = engine.clone().eval_query("true".to_owned(), false) {
            return Err(vec![Mistake::of(&error, "the policy")]);
        }
        engine.set_execution_timer_config(ExecutionTimerConfig { limit, check_interval: CHECK_EVERY });
        Ok(Evaluator { engine })
    }

    /// Evaluates a rule; `None` when it has no value for this input.
    ///
    /// # Errors
    /// When it takes too long or fails.
    pub(crate) fn decide(
        &mut self,
        rule: &str,
        input: &serde_json::Value,
    ) -> Result<Option<serde_json::Value>, Failure> {
        let value = self.value_of(rule, input).map_err(|error| failure(&error))?;
        if value == Value::Undefined {
            return Ok(None);
        }
        let text = value.to_json_str().map_err(|error| failure(&error))?;
        let value = serde_json::from_str(&text);
        value.map(Some).map_err(|error| Failure::Error(format!("{rule} is no value of JSON: {error}")))
    }

    /// As [`Evaluator::decide`], with what led to it.
    pub(crate) fn trace(
        &mut self,
        rule: &str,
        input: &serde_json::Value,
    ) -> (Result<Option<serde_json::Value>, Failure>, Trace) {
        self.engine.set_enable_coverage(true);
        self.engine.clear_coverage_data();
        let decided = self.decide(rule, input);
        let mut trace = Trace::default();
        for file in self.coverage() {
            for line in file.covered {
                let text = file.code.lines().nth(line.saturating_sub(1) as usize).unwrap_or_default();
                trace.lines.push(format!("{}:{line}: {}", file.path, text.trim()));
            }
        }
        trace.lines.truncate(MAX_TRACE);
        trace.printed = self.engine.take_prints().unwrap_or_default();
        trace.printed.truncate(MAX_TRACE);
        self.engine.set_enable_coverage(false);
        (decided, trace)
    }

    /// From now on notes which lines are evaluated.
    pub(super) fn count_lines(&mut self) {
        self.engine.set_enable_coverage(true);
    }

    pub(super) fn coverage(&self) -> Vec<regorus::coverage::File> {
        self.engine.get_coverage_report().map(|report| report.files).unwrap_or_default()
    }

    fn value_of(&mut self, rule: &str, input: &serde_json::Value) -> anyhow::Result<Value> {
        self.engine.set_input(Value::from_json_str(&input.to_string())?);
        // Whatever a rule prints is kept until it is taken.
        let _ = self.engine.take_prints();
        self.engine.eval_rule(rule.to_owned())
    }
}

fn failure(error: &anyhow::Error) -> Failure {
    let is_late = error.chain().any(|cause| {
        matches!(cause.downcast_ref::<LimitError>(), Some(LimitError::TimeLimitExceeded { .. }))
            || cause.to_string().contains("execution exceeded time limit")
    });
    if is_late {
        return Failure::TimedOut;
    }
    let Mistake { place, message, .. } = Mistake::of(error, "");
    Failure::Error(if place.is_empty() { message } else { format!("{place}: {message}") })
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::super::bundle::File;
    use super::*;
    use serde_json::json;

    const LONG: Duration = Duration::from_secs(20);

    fn evaluator(text: &str) -> Result<Evaluator, Vec<Mistake>> {
        let files = vec![File { path: "a.rego".to_owned(), text: text.to_owned() }];
        Evaluator::new(&Bundle { files }, LONG)
    }

    /// The hour is the input's: no rule reads a clock.
    #[test]
    fn a_rule_is_vetoed_by_the_hour_of_day() {
        let mut rules = evaluator(
            "package shield.ban\ndefault decision := {\"action\": \"ban\"}\n\
             decision := {\"action\": \"observe\", \"because\": \"night\"} if {\n  input.rule == \"flood\"\n  input.time.hour in {2, 3}\n}\n",
        )
        .unwrap();
        let mut check = |rule: &str, hour: u32, action: &str| {
            let input = json!({"rule": rule, "time": {"hour": hour}});
            let decided = rules.decide("data.shield.ban.decision", &input).unwrap().unwrap();
            assert_eq!(decided["action"], action, "{rule} at {hour}");
        };
        check("flood", 2, "observe");
        check("flood", 3, "observe");
        check("flood", 4, "ban");
        check("probing", 2, "ban");
    }

    #[test]
    fn mistakes_have_their_place() {
        let check = |text: &str, place: &str| {
            let mistakes = evaluator(text).err().expect("it is wrong");
            assert_eq!(mistakes[0].place, place, "{mistakes:?}");
        };
        check("package a\nx := if {\n", "a.rego:2:6");
        check("package a\n\nx if { y > 2 }\n", "a.rego:3:8");
        check("", "a.rego:1:1");
    }

    #[test]
    fn what_cannot_be_decided_is_said() {
        let mut rules = evaluator("package a\nx := 1 if input.a\ny contains i if some i in input.list\nz := 1 if input.a\nz := 2 if input.a").unwrap();
        assert_eq!(rules.decide("data.a.x", &json!({})), Ok(None));
        assert_eq!(rules.decide("data.a.y", &json!({"list": [2, 1]})), Ok(Some(json!([1, 2]))));
        let twice = rules.decide("data.a.z", &json!({"a": true}));
        assert!(matches!(&twice, Err(Failure::Error(text)) if text.contains("a.rego:")), "{twice:?}");
        let unknown = rules.decide("data.a.none", &json!({}));
        assert!(matches!(unknown, Err(Failure::Error(_))), "{unknown:?}");
    }

    #[test]
    fn an_endless_rule_ends() {
        let text = "package a\nx := count([1 | some i in numbers.range(1, 3000); some j in numbers.range(1, 3000); i * j > 0])";
        let files = vec![File { path: "a.rego".to_owned(), text: text.to_owned() }];
        let mut rules = Evaluator::new(&Bundle { files }, Duration::from_millis(20)).unwrap();
        assert_eq!(rules.decide("data.a.x", &json!({})), Err(Failure::TimedOut));
    }

    #[test]
    fn a_trace_shows_the_lines_and_what_was_printed() {
        let mut rules =
            evaluator("package a\nx := 1 if {\n  input.a\n  print(\"seen\")\n}\nx := 2 if {\n  input.b\n}\n")
                .unwrap();
        let (decided, trace) = rules.trace("data.a.x", &json!({"a": true}));
        assert_eq!(decided, Ok(Some(json!(1))));
        assert!(trace.lines.contains(&"a.rego:3: input.a".to_owned()), "{trace:?}");
        assert!(trace.printed.iter().any(|text| text.contains("seen")), "{trace:?}");
    }
}
