package shield.ban_test

import data.shield.ban

test_the_verdict_stands if {
	ban.decision.action == "ban" with input as {"client": "203.0.113.7", "rule": "probing", "time": {"hour": 3}}
}

test_the_term_is_the_ladders if {
	not ban.decision.term with input as {"client": "203.0.113.7", "rule": "flood", "time": {"hour": 12}}
}
