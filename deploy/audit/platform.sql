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
-- by a debt (4), a payment was granted once and a transaction reversed once (7), clawbacks and disputes keep within
-- their lots (8), a fee is due as it is borne (9), the hourly roll-up and the transactions tell the same story of
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
-- A request that cost nothing leaves a transaction without entries in the platform's book, as does a dispute of money
-- that was spent already, and an expiry that gives all back that the hot wallet gave for it; nothing else may.
SELECT '1 every transaction moves something', 'transaction ' || t.id || ' of ' || t.op_id, 'no entry', 'entries'
FROM txns t
LEFT JOIN entries e ON e.txn_id = t.id
WHERE e.id IS NULL AND t.kind NOT IN ('usage', 'expiry', 'dispute_opened', 'dispute_won', 'rollover')

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
-- Or frozen for, or owed by, the same owner.
SELECT '3 every entry of a lot is on the account of the lot', 'entry ' || e.id || ' of lot ' || e.lot_id,
       'account ' || e.account_id, COALESCE('account ' || l.account_id || ' or its owner''s', 'a lot')
FROM entries e
LEFT JOIN lots l ON l.id = e.lot_id
LEFT JOIN accounts a ON a.id = e.account_id
LEFT JOIN accounts o ON o.id = l.account_id
WHERE e.lot_id IS NOT NULL
  AND (l.id IS NULL OR l.account_id <> e.account_id
       AND (a.id IS NULL OR o.id IS NULL OR a.kind NOT IN ('user.frozen', 'receivable.clawback')
            OR a.owner <> o.owner OR a.asset <> o.asset))

UNION ALL
SELECT '3 every entry on a wallet names its lot', 'entry ' || e.id || ' on the wallet of ' || a.owner, 'no lot', 'a lot'
FROM entries e
JOIN accounts a ON a.id = e.account_id
WHERE a.kind IN ('user.available', 'user.frozen') AND e.lot_id IS NULL

UNION ALL
-- A lot's first entry is what made it.
SELECT '3 granted is what the lot''s grant put in', 'lot ' || l.id,
       CAST(l.granted_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, e.amount_micro AS total
    FROM entries e
    JOIN (SELECT MIN(id) AS id FROM entries WHERE lot_id IS NOT NULL GROUP BY lot_id) f ON f.id = e.id
    JOIN txns t ON t.id = e.txn_id
    WHERE t.kind IN ('grant', 'rollover', 'reinstate', 'correction')
) s ON s.lot_id = l.id
WHERE l.granted_micro <> COALESCE(s.total, 0)

UNION ALL
-- A grant takes from its own lot what it repays of a debt, as netting does before a lot expires; all else is usage.
SELECT '3 spent is what grants, netting and usage took out', 'lot ' || l.id,
       CAST(l.spent_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(-e.amount_micro) AS total
    FROM entries e JOIN txns t ON t.id = e.txn_id JOIN accounts a ON a.id = e.account_id
    WHERE t.kind IN ('grant', 'usage', 'netting') AND e.amount_micro < 0 AND a.kind = 'user.available'
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.spent_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 expired is what expiry and roll-over took out', 'lot ' || l.id,
       CAST(l.expired_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(-e.amount_micro) AS total
    FROM entries e JOIN txns t ON t.id = e.txn_id
    WHERE t.kind IN ('expiry', 'rollover') AND e.amount_micro < 0
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.expired_micro <> COALESCE(s.total, 0)

UNION ALL
-- What refunds and losses took out of what was left or frozen, less what their reversals put back.
SELECT '3 refunded is what refunds, losses and corrections took out', 'lot ' || l.id,
       CAST(l.refunded_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(-e.amount_micro) AS total
    FROM entries e JOIN txns t ON t.id = e.txn_id JOIN accounts a ON a.id = e.account_id
    LEFT JOIN (SELECT MIN(id) AS id FROM entries WHERE lot_id IS NOT NULL GROUP BY lot_id) f ON f.id = e.id
    WHERE t.kind IN ('refund', 'dispute_lost', 'reinstate', 'correction') AND a.kind IN ('user.available', 'user.frozen')
      AND f.id IS NULL
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.refunded_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 frozen is the sum of the lot''s frozen entries', 'lot ' || l.id,
       CAST(l.frozen_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(e.amount_micro) AS total
    FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE a.kind = 'user.frozen'
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.frozen_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '3 left is the sum of the lot''s entries', 'lot ' || l.id,
       CAST(l.left_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(e.amount_micro) AS total
    FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE a.kind = 'user.available'
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.left_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '4 nothing available or frozen is below zero', 'wallet of ' || a.owner || ' in ' || a.asset,
       CAST(a.balance_micro AS text), '0 or more'
FROM accounts a
WHERE a.kind IN ('user.available', 'user.frozen') AND a.balance_micro < 0

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
-- In the payment's own money, which an exchange may have made into something else. All of it takes all of the lot.
SELECT '7 what went back of a payment took its part of the lot', 'lot ' || s.id || ' of ' || s.external_ref,
       s.taken || ' of ' || s.granted, s.gone || ' of ' || s.paid || ' went back'
FROM (
    SELECT l.id, l.external_ref, l.granted_micro AS granted, l.refunded_micro + l.clawback_micro AS taken,
           SUM(CASE WHEN t.kind = 'grant' THEN -e.amount_micro ELSE 0 END) AS paid,
           SUM(CASE WHEN t.kind = 'grant' THEN 0 ELSE e.amount_micro END) AS gone, COUNT(DISTINCT t.id) AS moves
    FROM lots l
    JOIN (SELECT DISTINCT lot_id, txn_id FROM entries WHERE lot_id IS NOT NULL) n ON n.lot_id = l.id
    JOIN txns t ON t.id = n.txn_id AND t.kind IN ('grant', 'refund', 'dispute_lost', 'reinstate', 'correction')
    JOIN entries e ON e.txn_id = t.id
    JOIN accounts a ON a.id = e.account_id AND a.kind IN ('stripe_clearing', 'expense.processing', 'disputes', 'expense.disputes')
    WHERE l.external_ref IS NOT NULL
    GROUP BY l.id, l.external_ref, l.granted_micro, l.refunded_micro, l.clawback_micro
) s
WHERE s.gone < 0 OR s.gone > s.paid OR s.gone = 0 AND s.taken <> 0 OR s.gone = s.paid AND s.taken <> s.granted
   OR ABS(1.0 * s.taken * s.paid - 1.0 * s.granted * s.gone) > (s.moves + 1.0) * s.paid  -- each transaction rounds

UNION ALL
SELECT '7 an exchange is of a payment', 'transaction ' || t.id || ' of ' || t.op_id, t.kind, 'a grant, or what takes it back'
FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
WHERE a.kind = 'exchange' AND t.kind NOT IN ('grant', 'refund', 'dispute_lost', 'reinstate', 'correction')

UNION ALL
-- Or made, as its first entry, of money that came back.
SELECT '7 every lot was granted once', 'lot ' || l.id, CAST(COALESCE(s.times, 0) AS text), '1'
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, COUNT(*) AS times
    FROM entries e JOIN txns t ON t.id = e.txn_id
    LEFT JOIN (SELECT MIN(id) AS id FROM entries WHERE lot_id IS NOT NULL GROUP BY lot_id) f ON f.id = e.id
    WHERE e.amount_micro > 0
      AND (t.kind IN ('grant', 'rollover') OR f.id IS NOT NULL AND t.kind IN ('reinstate', 'correction'))
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE COALESCE(s.times, 0) <> 1

UNION ALL
SELECT '7 every operation is posted once', 'op_id ' || t.op_id, CAST(COUNT(*) AS text), '1'
FROM txns t
GROUP BY t.op_id
HAVING COUNT(*) > 1

UNION ALL
SELECT '7 every transaction is reversed once', 'transaction ' || t.reverses, CAST(COUNT(*) AS text), '1'
FROM txns t
WHERE t.reverses IS NOT NULL
GROUP BY t.reverses
HAVING COUNT(*) > 1

UNION ALL
SELECT '7 every reversal is of what it may reverse', 'transaction ' || t.id || ' of kind ' || t.kind,
       COALESCE(r.kind, 'reverses nothing'), 'another kind'
FROM txns t
LEFT JOIN txns r ON r.id = t.reverses
WHERE t.kind IN ('dispute_won', 'dispute_lost') AND (r.id IS NULL OR r.kind <> 'dispute_opened')
   OR t.kind = 'reinstate' AND (r.id IS NULL OR r.kind <> 'dispute_lost')
   OR t.kind = 'correction' AND (r.id IS NULL OR r.kind NOT IN ('grant', 'refund', 'expiry', 'usage'))
   OR t.kind NOT IN ('dispute_won', 'dispute_lost', 'reinstate', 'correction') AND t.reverses IS NOT NULL

UNION ALL
SELECT '8 clawback is what the lot left its owner owing', 'lot ' || l.id,
       CAST(l.clawback_micro AS text), CAST(COALESCE(s.total, 0) AS text)
FROM lots l
LEFT JOIN (
    SELECT e.lot_id, SUM(-e.amount_micro) AS total
    FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE a.kind = 'receivable.clawback'
    GROUP BY e.lot_id
) s ON s.lot_id = l.id
WHERE l.clawback_micro <> COALESCE(s.total, 0)

UNION ALL
SELECT '8 no more is clawed back than was spent or expired', 'lot ' || l.id,
       CAST(l.clawback_micro AS text), '0 to ' || (l.spent_micro + l.expired_micro)
FROM lots l
WHERE l.clawback_micro < 0 OR l.clawback_micro > l.spent_micro + l.expired_micro

UNION ALL
SELECT '8 the end of a dispute frees what its opening froze', 'transaction ' || t.id || ' of ' || t.op_id,
       CAST(-COALESCE(h.total, 0) AS text), CAST(COALESCE(o.total, 0) AS text)
FROM txns t
LEFT JOIN (
    SELECT e.txn_id, SUM(e.amount_micro) AS total FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE a.kind = 'user.frozen' GROUP BY e.txn_id
) h ON h.txn_id = t.id
LEFT JOIN (
    SELECT e.txn_id, SUM(e.amount_micro) AS total FROM entries e JOIN accounts a ON a.id = e.account_id
    WHERE a.kind = 'user.frozen' GROUP BY e.txn_id
) o ON o.txn_id = t.reverses
WHERE t.kind IN ('dispute_won', 'dispute_lost') AND -COALESCE(h.total, 0) <> COALESCE(o.total, 0)

UNION ALL
SELECT '9 a fee is due as it is borne', 'transaction ' || s.id || ' of ' || s.op_id,
       'due ' || s.due, 'borne ' || s.borne
FROM (
    SELECT t.id, t.op_id,
           SUM(CASE WHEN a.kind IN ('due_to_platform', 'due_from_app') THEN e.amount_micro ELSE 0 END) AS due,
           SUM(CASE WHEN a.kind IN ('expense.platform_fee', 'revenue.platform_fee') THEN -e.amount_micro ELSE 0 END) AS borne
    FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
    WHERE t.kind <> 'settlement'
    GROUP BY t.id, t.op_id
) s
WHERE s.due <> s.borne

UNION ALL
SELECT '10 a settlement moves what is due and nothing else', 'transaction ' || t.id || ' of ' || t.op_id,
       COALESCE(a.kind, 'no account'), 'what is due, or stripe_clearing'
FROM txns t JOIN entries e ON e.txn_id = t.id LEFT JOIN accounts a ON a.id = e.account_id
WHERE t.kind = 'settlement' AND (a.id IS NULL OR a.kind NOT IN ('due_to_platform', 'due_from_app', 'stripe_clearing'))

UNION ALL
-- The outbox tells the hot store what a transaction changed of a wallet: available and debt together.
SELECT '12 every line of the outbox is what its transaction moved', 'credit of transaction ' || s.txn_id,
       CAST(s.delta_micro AS text), COALESCE('no ' || s.other, CAST(s.moved AS text))
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
-- Usage moved the hot wallet before it came here.
SELECT '12 every change of a wallet is in the outbox', 'transaction ' || s.id || ' of ' || s.op_id, 'no credit',
       'a credit of ' || s.moved
FROM (
    SELECT t.id, t.op_id, SUM(e.amount_micro) AS moved
    FROM txns t JOIN entries e ON e.txn_id = t.id JOIN accounts a ON a.id = e.account_id
    LEFT JOIN credits c ON c.txn_id = t.id
    WHERE t.kind <> 'usage' AND c.txn_id IS NULL AND a.kind IN ('user.available', 'receivable.clawback')
    GROUP BY t.id, t.op_id
) s
WHERE s.moved <> 0

UNION ALL
-- The hot wallet gave the money first, and what the lot had no more is given back.
SELECT '12 an expiry, and nothing else, took at least what it moved', 'credit of transaction ' || c.txn_id,
       'taken ' || c.taken_micro, CASE WHEN t.kind = 'expiry' THEN -c.delta_micro || ' or more' ELSE 'nothing taken' END
FROM credits c
JOIN txns t ON t.id = c.txn_id
WHERE t.kind = 'expiry' AND (c.taken_micro <= 0 OR c.taken_micro < -c.delta_micro) OR t.kind <> 'expiry' AND c.taken_micro <> 0

UNION ALL
SELECT '14 wallets have an owner and nothing else has', 'account ' || a.id || ' of kind ' || a.kind,
       'owner ''' || a.owner || '''', CASE WHEN a.owner = '' THEN 'an owner' ELSE 'none' END
FROM accounts a
WHERE (a.owner = '') = (a.kind IN ('user.available', 'user.frozen', 'receivable.clawback', 'due_from_app'))

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
-- What an app owes the platform stands in the app's name.
SELECT '14 every account is the book''s own, a creator''s or what an app owes', 'account ' || a.id || ' of kind ' || a.kind, a.owner,
       CASE WHEN a.kind = 'due_from_app' THEN 'an app' ELSE 'a creator' END
FROM accounts a
LEFT JOIN creators c ON c.user_id = a.owner
LEFT JOIN apps p ON p.enterprise_id = a.owner
WHERE a.owner <> '' AND CASE WHEN a.kind = 'due_from_app' THEN p.enterprise_id ELSE c.user_id END IS NULL

ORDER BY 1, 2;
