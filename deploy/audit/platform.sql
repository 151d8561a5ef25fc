-- The audit of the platform's book, in SQL alone. It shares nothing with `gateway audit`, which makes the same
-- promises in Python: two programs that agree are a better witness than one.
--
--     sqlite3 -bail -readonly data/platform.sqlite < deploy/audit/platform.sql
--     psql -X -At -v ON_ERROR_STOP=1 -f deploy/audit/platform.sql 'postgresql://.../<database of the platform>'
--
-- The book is clean when the command succeeds (exit status 0) and prints nothing. Every line is a violation:
-- the invariant by its number, what breaks it, what was found, what was expected. An error is no clean book.
--
-- It proves, from the stored rows and in one snapshot: every transaction balances (1), balances are the sums of
-- their entries (2), lots agree with themselves, their wallets and their entries (3), nobody is below zero except
-- by a debt (4), a payment was granted once (7), the hourly roll-up and the transactions tell the same story of
-- requests, revenue and what each creator paid, with no more provider cost than was metered (11), the outbox is
-- what the books granted (half of 12), no account belongs to anyone but a creator (14), and the trail's lines
-- follow one another up to its head, one for each grant (half of 15).
-- It cannot make a line's hash anew (`gateway trail verify` does). It cannot prove what lies outside this
-- database: that hot balances are those of the books (12), that the apps' books have the same requests (11), that
-- no two apps share a database (14), that a request was priced rightly. Nor can it tell an end user's id inside a
-- free text such as a grant's reason. `gateway audit` compares the stores; this file trusts the rows to be all
-- there are.
--
-- SQLite and PostgreSQL 13 or newer; amounts are integer micro-units. SQLite adds in 64 bits and fails, with
-- an error, on a sum beyond them.

-- The books: from here to "This book's own", app.sql and platform.sql are the same.

SELECT '1 every transaction sums to zero per asset' AS invariant,
       'transaction ' || e.txn_id || ' in ' || e.asset AS what,
       CAST(SUM(e.amount_micro) AS text) AS found,
       '0' AS expected
FROM entries e
GROUP BY e.txn_id, e.asset
HAVING SUM(e.amount_micro) <> 0

UNION ALL
SELECT '1 every entry has the asset of its account',
       'entry ' || e.id || ' on account ' || e.account_id, e.asset, COALESCE(a.asset, 'an account')
FROM entries e
LEFT JOIN accounts a ON a.id = e.account_id
WHERE a.id IS NULL OR a.asset <> e.asset

UNION ALL
SELECT '1 every entry belongs to a transaction', 'entry ' || e.id, e.txn_id, 'a transaction'
FROM entries e
LEFT JOIN txns t ON t.id = e.txn_id
WHERE t.id IS NULL

UNION ALL
-- A request that cost nothing leaves a transaction without entries in the platform's book; nothing else may.
SELECT '1 every transaction moves something', 'transaction ' || t.id || ' of ' || t.op_id, 'no entry', 'entries'
FROM txns t
LEFT JOIN entries e ON e.txn_id = t.id
WHERE e.id IS NULL AND t.kind <> 'usage'

UNION ALL
SELECT '2 every balance is the sum of its entries',
       'account ' || a.id || ' ' || a.owner || '/' || a.kind || '/' || a.asset,
       CAST(a.balance_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM accounts a
LEFT JOIN (SELECT account_id, SUM(amount_micro) AS total FROM entries GROUP BY account_id) s ON s.account_id = a.id
WHERE a.balance_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 every lot adds up', 'lot ' || l.id,
       CAST(l.spent_micro + l.expired_micro + l.refunded_micro + l.frozen_micro + l.left_micro AS text),
       CAST(l.granted_micro AS text)
FROM lots l
WHERE l.granted_micro <> l.spent_micro + l.expired_micro + l.refunded_micro + l.frozen_micro + l.left_micro

UNION ALL
SELECT '3 no part of a lot is negative', 'lot ' || l.id,
       'granted ' || l.granted_micro || ', spent ' || l.spent_micro || ', expired ' || l.expired_micro || ', refunded '
       || l.refunded_micro || ', frozen ' || l.frozen_micro || ', left ' || l.left_micro,
       'none below 0'
FROM lots l
WHERE l.granted_micro < 0 OR l.spent_micro < 0 OR l.expired_micro < 0
   OR l.refunded_micro < 0 OR l.frozen_micro < 0 OR l.left_micro < 0

UNION ALL
SELECT '3 what the lots have left is what is available', 'wallet of ' || a.owner || ' in ' || a.asset,
       CAST(COALESCE(s.total, 0) AS text), CAST(a.balance_micro AS text)
FROM accounts a
LEFT JOIN (SELECT account_id, SUM(left_micro) AS total FROM lots GROUP BY account_id) s ON s.account_id = a.id
WHERE a.kind = 'user.available' AND a.balance_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 every lot lies in a wallet', 'lot ' || l.id || ' on account ' || l.account_id,
       COALESCE(a.kind, 'no account'), 'user.available'
FROM lots l
LEFT JOIN accounts a ON a.id = l.account_id
WHERE a.id IS NULL OR a.kind <> 'user.available'

UNION ALL
SELECT '3 every entry of a lot is on the account of the lot', 'entry ' || e.id || ' of lot ' || e.lot_id,
       'account ' || e.account_id, COALESCE('account ' || l.account_id, 'a lot')
FROM entries e
LEFT JOIN lots l ON l.id = e.lot_id
WHERE e.lot_id IS NOT NULL AND (l.id IS NULL OR l.account_id <> e.account_id)

UNION ALL
SELECT '3 every entry on a wallet names its lot', 'entry ' || e.id || ' on the wallet of ' || a.owner, 'no lot', 'a lot'
FROM entries e
JOIN accounts a ON a.id = e.account_id
WHERE a.kind = 'user.available' AND e.lot_id IS NULL

UNION ALL
SELECT '3 granted is what the lot''s grant put in', 'lot ' || l.id,
       CAST(l.granted_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(e.amount_micro) AS total
    FROM entries e JOIN txns t ON t.id = e.txn_id
    WHERE t.kind = 'grant' AND e.amount_micro > 0
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.granted_micro <> COALESCE(s.total, 0)

UNION ALL
-- A grant takes from its own lot what it repays of a debt; all else that is spent is usage.
SELECT '3 spent is what grants and usage took out', 'lot ' || l.id,
       CAST(l.spent_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(-e.amount_micro) AS total
    FROM entries e JOIN txns t ON t.id = e.txn_id
    WHERE t.kind IN ('grant', 'usage') AND e.amount_micro < 0
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.spent_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 left is the sum of the lot''s entries', 'lot ' || l.id,
       CAST(l.left_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (SELECT lot_id, SUM(amount_micro) AS total FROM entries GROUP BY lot_id) s ON s.lot_id = l.id
WHERE l.left_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '4 nothing available is below zero', 'wallet of ' || a.owner || ' in ' || a.asset,
       CAST(a.balance_micro AS text), '0 or more'
FROM accounts a
WHERE a.kind = 'user.available' AND a.balance_micro < 0

UNION ALL
SELECT '4 no debt is above zero', 'debt of ' || a.owner || ' in ' || a.asset, CAST(a.balance_micro AS text), '0 or less'
FROM accounts a
WHERE a.kind = 'receivable.clawback' AND a.balance_micro > 0

UNION ALL
SELECT '7 every payment has one lot', 'external_ref ' || l.external_ref, CAST(COUNT(*) AS text), '1'
FROM lots l
WHERE l.external_ref IS NOT NULL
GROUP BY l.external_ref
HAVING COUNT(*) > 1

UNION ALL
SELECT '7 every lot was granted once', 'lot ' || l.id, CAST(COALESCE(s.times, 0) AS text), '1'
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, COUNT(*) AS times
    FROM entries e JOIN txns t ON t.id = e.txn_id
    WHERE t.kind = 'grant' AND e.amount_micro > 0
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE COALESCE(s.times, 0) <> 1

UNION ALL
SELECT '7 every operation is posted once', 'op_id ' || t.op_id, CAST(COUNT(*) AS text), '1'
FROM txns t
GROUP BY t.op_id
HAVING COUNT(*) > 1

UNION ALL
-- The outbox tells the hot store what a transaction changed of a wallet: available and debt together.
SELECT '12 every line of the outbox is what its transaction moved', 'credit of transaction ' || s.txn_id,
       CAST(s.delta_micro AS text), COALESCE('a grant, not ' || s.other, CAST(s.moved AS text))
FROM (
    SELECT c.txn_id, c.delta_micro,
           CASE WHEN t.id IS NULL THEN 'nothing' WHEN t.kind = 'usage' THEN 'usage' END AS other,
           COALESCE(SUM(CASE WHEN w.owner = a.owner AND w.kind IN ('user.available', 'receivable.clawback')
                             THEN e.amount_micro END), 0) AS moved
    FROM credits c
    LEFT JOIN txns t ON t.id = c.txn_id
    LEFT JOIN accounts a ON a.id = c.account_id
    LEFT JOIN entries e ON e.txn_id = c.txn_id
    LEFT JOIN accounts w ON w.id = e.account_id
    GROUP BY c.txn_id, c.delta_micro, t.id, t.kind
) s
WHERE s.other IS NOT NULL OR s.delta_micro <> s.moved

UNION ALL
SELECT '12 every grant is in the outbox', 'transaction ' || t.id || ' of ' || t.op_id, 'no credit', 'a credit'
FROM txns t
LEFT JOIN credits c ON c.txn_id = t.id
WHERE t.kind = 'grant' AND c.txn_id IS NULL

UNION ALL
SELECT '14 wallets have an owner and nothing else has', 'account ' || a.id || ' of kind ' || a.kind,
       'owner ''' || a.owner || '''', CASE WHEN a.owner = '' THEN 'an owner' ELSE 'none' END
FROM accounts a
WHERE (a.owner = '') = (a.kind IN ('user.available', 'user.frozen', 'receivable.clawback'))

UNION ALL
SELECT '11 the operation of a usage transaction names its request', 'transaction ' || t.id, t.kind || ' ' || t.op_id,
       'usage usage:<request_id>, or neither'
FROM txns t
WHERE (t.kind = 'usage') <> (substr(t.op_id, 1, 6) = 'usage:')

UNION ALL
-- The trail. Hashes cannot be made anew in SQL that both databases know: `gateway trail verify` does that.
SELECT '15 no line of the trail is missing', 'line ' || (t.seq - 1), 'none', 'the line before line ' || t.seq
FROM trail t
LEFT JOIN trail p ON p.seq = t.seq - 1
WHERE t.seq > 1 AND p.seq IS NULL

UNION ALL
SELECT '15 every line of the trail follows the hash before it', 'line ' || t.seq, t.prev_hash,
       COALESCE(p.hash, '0000000000000000000000000000000000000000000000000000000000000000')
FROM trail t
LEFT JOIN trail p ON p.seq = t.seq - 1
WHERE (t.seq = 1 OR p.seq IS NOT NULL)
  AND t.prev_hash <> COALESCE(p.hash, '0000000000000000000000000000000000000000000000000000000000000000')

UNION ALL
SELECT '15 the head of the trail is its last line', 'the head',
       COALESCE((SELECT MAX(h.seq || ' ' || h.hash) FROM trail_head h), 'no head'), l.last
FROM (SELECT COALESCE((SELECT t.seq || ' ' || t.hash FROM trail t ORDER BY t.seq DESC LIMIT 1),
                      '0 0000000000000000000000000000000000000000000000000000000000000000') AS last) l
WHERE COALESCE((SELECT MAX(h.seq || ' ' || h.hash) FROM trail_head h), 'no head') <> l.last

UNION ALL
-- Grants from before there was a trail have none.
SELECT '15 every grant has its line in the trail', 'transaction ' || t.id || ' of ' || t.op_id, COUNT(l.seq) || ' lines', 'one line'
FROM txns t
LEFT JOIN trail l ON l.txn_id = t.id
WHERE t.kind = 'grant' AND t.id > COALESCE((SELECT MAX(h.after_txn) FROM trail_head h), '')
GROUP BY t.id, t.op_id
HAVING COUNT(l.seq) <> 1

UNION ALL
SELECT '15 every transaction of a line of the trail is there', 'line ' || l.seq, l.txn_id, 'a transaction'
FROM trail l
LEFT JOIN txns t ON t.id = l.txn_id
WHERE l.txn_id <> '' AND t.id IS NULL

-- This book's own.

UNION ALL
SELECT '11 revenue is what the hours charged creators', 'revenue.usage in ' || s.asset,
       CAST(s.stands AS text), CAST(s.charged AS text)
FROM (
    SELECT b.asset, SUM(b.stands) AS stands, SUM(b.charged) AS charged
    FROM (
        SELECT asset, balance_micro AS stands, 0 AS charged FROM accounts WHERE kind = 'revenue.usage'
        UNION ALL
        SELECT 'USD', 0, creator_micro FROM usage_hours
    ) b
    GROUP BY b.asset
) s
WHERE s.stands <> s.charged

UNION ALL
-- Every request leaves one transaction here, with its app in `reason`.
SELECT '11 the hours count the requests that are posted', 'app ' || s.app, CAST(s.counted AS text), CAST(s.posted AS text)
FROM (
    SELECT b.app, SUM(b.counted) AS counted, SUM(b.posted) AS posted
    FROM (
        SELECT enterprise_id AS app, requests AS counted, 0 AS posted FROM usage_hours
        UNION ALL
        SELECT reason, 0, 1 FROM txns WHERE kind = 'usage'
    ) b
    GROUP BY b.app
) s
WHERE s.counted <> s.posted

UNION ALL
SELECT '11 the hours of an app are the revenue posted for it', 'app ' || s.app,
       CAST(s.counted AS text), CAST(s.posted AS text)
FROM (
    SELECT b.app, SUM(b.counted) AS counted, SUM(b.posted) AS posted
    FROM (
        SELECT enterprise_id AS app, creator_micro AS counted, 0 AS posted FROM usage_hours
        UNION ALL
        SELECT t.reason, 0, e.amount_micro
        FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
        WHERE t.kind = 'usage' AND a.kind = 'revenue.usage'
    ) b
    GROUP BY b.app
) s
WHERE s.counted <> s.posted

UNION ALL
SELECT '11 the hours of a creator are what the creator paid', 'creator ' || s.creator,
       CAST(s.counted AS text), CAST(s.paid AS text)
FROM (
    SELECT b.creator, SUM(b.counted) AS counted, SUM(b.paid) AS paid
    FROM (
        SELECT user_id AS creator, creator_micro AS counted, 0 AS paid FROM usage_hours
        UNION ALL
        SELECT a.owner, 0, -e.amount_micro
        FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
        WHERE t.kind = 'usage' AND a.kind IN ('user.available', 'receivable.clawback')
    ) b
    GROUP BY b.creator
) s
WHERE s.counted <> s.paid

UNION ALL
SELECT '11 the revenue of a request is what creators paid for it', 'transaction ' || s.id || ' of ' || s.op_id,
       CAST(s.revenue AS text), CAST(s.paid AS text)
FROM (
    SELECT t.id, t.op_id,
           COALESCE(SUM(CASE WHEN a.kind = 'revenue.usage' THEN e.amount_micro END), 0) AS revenue,
           COALESCE(SUM(CASE WHEN a.kind IN ('user.available', 'receivable.clawback') THEN -e.amount_micro END), 0) AS paid
    FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
    WHERE t.kind = 'usage'
    GROUP BY t.id, t.op_id
) s
WHERE s.revenue <> s.paid

UNION ALL
-- Less than was metered where creators use keys of their own: the platform owes nothing for those.
SELECT '11 provider cost posted is no more than was metered', 'app ' || s.app,
       CAST(s.posted AS text), '0 to ' || s.metered
FROM (
    SELECT b.app, SUM(b.metered) AS metered, SUM(b.posted) AS posted
    FROM (
        SELECT enterprise_id AS app, provider_cost_micro AS metered, 0 AS posted FROM usage_hours
        UNION ALL
        SELECT t.reason, 0, -e.amount_micro
        FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
        WHERE t.kind = 'usage' AND a.kind = 'expense.llm_cost'
    ) b
    GROUP BY b.app
) s
WHERE s.posted < 0 OR s.posted > s.metered

UNION ALL
SELECT '11 every request posted is of a known app', 'transaction ' || t.id || ' of ' || t.op_id, t.reason, 'an app'
FROM txns t
LEFT JOIN apps p ON p.enterprise_id = t.reason
WHERE t.kind = 'usage' AND p.enterprise_id IS NULL

UNION ALL
SELECT '11 every row of the roll-up is a whole hour of a known app and creator',
       'hour ' || h.hour || ' of app ' || h.enterprise_id || ', ' || h.model,
       'app ' || COALESCE(p.enterprise_id, 'unknown') || ', creator ' || COALESCE(c.user_id, 'unknown') || ', '
       || (h.hour % 3600000) || ' ms past the hour',
       'a known app and creator, 0 ms'
FROM usage_hours h
LEFT JOIN apps p ON p.enterprise_id = h.enterprise_id
LEFT JOIN creators c ON c.user_id = h.user_id
WHERE p.enterprise_id IS NULL OR c.user_id IS NULL OR h.hour % 3600000 <> 0

UNION ALL
SELECT '11 every row of the roll-up has requests and no negative sum',
       'hour ' || h.hour || ' of app ' || h.enterprise_id || ', ' || h.model,
       'requests ' || h.requests || ', tokens ' || h.input_tokens || ' and ' || h.output_tokens || ', end users '
       || h.end_user_micro || ', creator ' || h.creator_micro || ', cost ' || h.provider_cost_micro,
       'requests, and none below 0'
FROM usage_hours h
WHERE h.requests < 1 OR h.input_tokens < 0 OR h.output_tokens < 0
   OR h.end_user_micro < 0 OR h.creator_micro < 0 OR h.provider_cost_micro < 0

UNION ALL
SELECT '11 end users pay at level app_usage only', 'hour ' || h.hour || ' of app ' || h.enterprise_id || ', ' || h.model,
       h.end_user_micro || ' at level ' || h.level, '0, or level app_usage'
FROM usage_hours h
WHERE h.level <> 'app_usage' AND (h.level <> 'platform' OR h.end_user_micro <> 0)

UNION ALL
SELECT '12 every line of the outbox names the wallet of its account', 'credit of transaction ' || c.txn_id,
       c.wallet, COALESCE('p/' || a.owner, 'a wallet')
FROM credits c
LEFT JOIN accounts a ON a.id = c.account_id AND a.kind = 'user.available'
WHERE a.id IS NULL OR c.wallet <> 'p/' || a.owner

UNION ALL
SELECT '14 every account is the book''s own or a creator''s', 'account ' || a.id || ' of kind ' || a.kind, a.owner,
       'a creator'
FROM accounts a
LEFT JOIN creators c ON c.user_id = a.owner
WHERE a.owner <> '' AND c.user_id IS NULL

ORDER BY 1, 2;
