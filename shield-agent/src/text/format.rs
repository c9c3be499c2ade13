//! Why a `log_format` cannot be used, and what to do.

use shield_logline::{Missing, Unusable};

/// The reason in one sentence, with the remedy.
pub(crate) fn unusable(why: &Unusable) -> String {
    match why {
        Unusable::NoVariables => {
            "it has no variable such as $remote_addr: paste the text of the log_format from \
                                  nginx.conf, or write auto, json, combined or common"
                .to_owned()
        }
        Unusable::Variable => {
            "a $ has no variable's name behind it: write $name or ${name}, as in nginx.conf".to_owned()
        }
        Unusable::LineBreak => {
            "it has a line break outside of quotes: write it in one line, or paste its quoted pieces \
                                as they stand in nginx.conf"
                .to_owned()
        }
        Unusable::Backslash => {
            "it has a backslash, which a client's escaped text can be taken for: use another separator"
                .to_owned()
        }
        Unusable::Escape(word) => format!("escape={word} does not exist: nginx knows default, json and none"),
        Unusable::Lacks(Missing::Address) => {
            "it has no client address: add $remote_addr to the log_format".to_owned()
        }
        Unusable::Lacks(Missing::Time) => {
            "it has no time: add $time_iso8601 (or $time_local or $msec) to the log_format".to_owned()
        }
        Unusable::Lacks(Missing::Status) => "it has no status: add $status to the log_format".to_owned(),
        Unusable::Touching { first, second } => format!(
            "nothing stands between ${first} and ${second}, so that the two cannot be told apart: put a separator \
             between them in the log_format"
        ),
        Unusable::Ambiguous { client, hidden } if client == hidden => format!(
            "clients choose the text of ${client}, and nothing marks its end for certain: put it in double quotes in \
             the log_format (without escape=none)"
        ),
        Unusable::Ambiguous { client, hidden } => format!(
            "clients choose the text of ${client} and could forge ${hidden} with it: put ${client} in double quotes \
             in the log_format (without escape=none), or put ${hidden} before it"
        ),
        Unusable::BreaksLines { variable } => format!(
            "with escape=none a client can write a line break into ${variable}, and with it whole lines of others: \
             remove escape=none from the log_format, or the variable"
        ),
        Unusable::UnescapedJson { variable } => format!(
            "it is JSON with escape=none, so a client can write a quote into ${variable}, and behind it fields of its own \
             that hide its requests: write escape=json in the log_format"
        ),
        Unusable::Json => {
            "it begins like JSON but is no JSON object: put names and texts in double quotes".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_logline::Recipe;

    #[test]
    fn what_is_missing_and_what_to_do_is_said() {
        let check = |format: &str, parts: &[&str]| {
            let said = unusable(&Recipe::of(format).unwrap_err());
            assert!(parts.iter().all(|part| said.contains(part)), "{format}: {said}");
        };
        check("main", &["auto, json, combined or common"]);
        check("$remote_addr [$time_local] $", &["${name}"]);
        check("[$time_local] \"$request\" $status", &["no client address", "$remote_addr"]);
        check("$remote_addr \"$request\" $status", &["no time", "$time_iso8601"]);
        check("$remote_addr [$time_local] \"$request\"", &["no status", "$status"]);
        check("$remote_addr$status [$time_local]", &["$remote_addr and $status", "separator"]);
        check(
            "$http_user_agent $remote_addr - $remote_user [$time_local] $status",
            &["$http_user_agent", "forge $remote_addr"],
        );
        check("$remote_addr [$time_local] $status $request $http_user_agent", &["$request", "double quotes"]);
        check(
            "escape=none '$remote_addr [$time_local] $status $remote_user'",
            &["line break into $remote_user"],
        );
        check("escape=xml '$remote_addr'", &["escape=xml", "default, json and none"]);
        check("{\"a\":$remote_addr,", &["no JSON object"]);
        check(
            "escape=none '{\"a\":\"$remote_addr\",\"t\":$msec,\"s\":$status,\"u\":\"$request_uri\"}'",
            &["JSON with escape=none", "$request_uri", "write escape=json"],
        );
    }
}
