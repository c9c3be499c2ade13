package shield.promote_test

import data.shield.promote

good := {
	"state": "running",
	"hours": 2,
	"observed_secs": 7200,
	"least_secs": 3600,
	"lines": 100000,
	"lost_lines": 0,
	"lost_share": 0,
	"whole": true,
	"clients": 1000,
	"candidate": {
		"bans": 22,
		"only": 3,
		"client_share": 0.022,
		"known_good_hit": 0,
		"verified_bots_hit": 0,
		"served_strangers_hit": 0,
	},
	"live": {"bans": 20, "only": 1, "client_share": 0.02},
	"site": {"error_rate": 0.001, "p99_ms": 200},
	"differing": [
		{"client": "198.51.100.7", "banned_by": "candidate", "known_good": true, "verified_bot": false, "served_stranger": false},
		{"client": "198.51.100.8", "banned_by": "live", "known_good": true, "verified_bot": false, "served_stranger": false},
	],
}

# Refused for this reason alone, when this much of the question is another one.
refused(other, reason) if promote.deny == {reason} with input as object.union(good, other)

let_through(other) if count(promote.deny) == 0 with input as object.union(good, other)

test_a_good_candidate if let_through({})

test_one_that_ended if refused({"state": "ended"}, "it does not run: what it found is no more what it would do now")

test_too_short if {
	refused({"observed_secs": 60}, "it has observed for 1 min only, and 1 h is the least")
	refused({"observed_secs": 1, "least_secs": 5400}, "it has observed for 1 s only, and 1.5 h is the least")
	let_through({"observed_secs": 1, "least_secs": 1})
}

test_no_line if refused({"lines": 0}, "it has judged no line")

test_incomplete if {
	lost := {"lost_lines": 2000, "lost_share": 0.02, "whole": false}
	refused(lost, "it is incomplete: 2000 lines could not be judged in time")
	refused({"whole": false}, "it is incomplete: more happened than it could take in or remember")
	let_through({"lost_lines": 10, "lost_share": 0.0001, "whole": false})
}

test_visitors_are_named if {
	hit := {"candidate": {"known_good_hit": 1}}
	refused(hit, "it would ban 1 client served well within a day, and live they are not banned: 198.51.100.7")
}

test_search_engines if {
	hit := {"candidate": {"verified_bots_hit": 2}}
	refused(hit, "it would ban 2 search engines, verified by DNS")
}

test_strangers_who_were_served if {
	words := "it would ban 11 new clients whose requests were mostly answered well, and live they are not banned"
	refused({"clients": 1099, "candidate": {"served_strangers_hit": 11}}, words)
	let_through({"clients": 1100, "candidate": {"served_strangers_hit": 11}})
	refused({"clients": 99, "candidate": {"served_strangers_hit": 1}}, replace(words, "11 new clients", "1 new client"))
}

test_too_many_new_bans if {
	words := "it would ban 11 clients that the live rules do not, and 10 is the most (1 % of 1000 clients)"
	refused({"candidate": {"only": 11}}, words)
	let_through({"clients": 20, "candidate": {"only": 5}})
}

test_too_few_bans if {
	refused({"candidate": {"bans": 9}}, "it would make 9 bans where the live rules made 20: less than half")
	let_through({"live": {"bans": 9}, "candidate": {"bans": 0}})
}

test_a_site_in_trouble if {
	refused({"site": {"error_rate": 0.0625}}, "6.3 % of the site's answers are server errors, and 5 % is the most")
	refused({"site": {"p99_ms": 5000}}, "the site is slow: 99 of 100 answers take up to 5000 ms, and 2000 ms is the most")
}

test_a_site_without_times if let_through({"site": {"error_rate": 0}})
