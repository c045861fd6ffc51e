package sqlstore

import (
	"fmt"
	"time"

	"keyway/lifecycle"
	"keyway/lifecycle/key"
)

const jobColumns = "j.id, j.target, j.kind, j.payload, j.state, j.not_before, j.attempts, j.unknown, j.said, j.lease, j.created, j.finished"

func (t *transaction) InsertJob(j lifecycle.NewJob) (id int64, err error) {
	now, err := t.now()
	if err != nil {
		return 0, err
	}
	err = t.returning("INSERT INTO jobs (target, kind, payload, state, not_before, created) VALUES (?,?,?,?,?,?) RETURNING id",
		j.Target, j.Kind, j.Payload, string(lifecycle.JobWaiting), millis(j.NotBefore), now).Scan(&id)
	return id, err
}

// ClaimJobs takes the first open job of each target, where it is due or its claim has run out. A job that was put in at the same time as a
// later one may become visible after it: it waits then while that one is claimed.
func (t *transaction) ClaimJobs(l lifecycle.Lease, limit int, d time.Duration) ([]lifecycle.Job, error) {
	if err := t.Fenced(l); err != nil {
		return nil, err
	}
	now, err := t.now()
	if err != nil {
		return nil, err
	}
	jobs, err := t.jobs(`WHERE j.id IN (SELECT MIN(id) FROM jobs WHERE state IN ('waiting', 'claimed') GROUP BY target)
		AND (j.state = 'waiting' AND j.not_before <= ? OR j.state = 'claimed' AND j.claimed_until <= ?)
		AND NOT EXISTS (SELECT 1 FROM jobs c WHERE c.target = j.target AND c.state = 'claimed' AND c.claimed_until > ?)
		ORDER BY j.id LIMIT ?`+t.dialect.claim, now, now, now, limit)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		j := &jobs[i]
		j.Unknown = j.Unknown || j.State == lifecycle.JobClaimed
		j.State, j.Lease = lifecycle.JobClaimed, l.Epoch
		j.Attempts++
		_, err := t.quietly("job", "UPDATE jobs SET state = ?, attempts = ?, unknown = ?, lease = ?, claimed_until = ? WHERE id = ?",
			string(j.State), j.Attempts, bit(j.Unknown), j.Lease, now+d.Milliseconds(), j.ID)
		if err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *transaction) FinishJob(l lifecycle.Lease, j lifecycle.Job, o lifecycle.JobOutcome) error {
	if err := t.Fenced(l); err != nil {
		return err
	}
	now, err := t.now()
	if err != nil {
		return err
	}
	state, notBefore, finished, unknown := lifecycle.JobWaiting, now+o.After.Milliseconds(), int64(0), j.Unknown
	switch o.Result {
	case lifecycle.JobSucceeded:
		state, notBefore, finished, unknown = lifecycle.JobDone, millis(j.NotBefore), now, false
	case lifecycle.JobGivenUp:
		state, notBefore, finished = lifecycle.JobDead, millis(j.NotBefore), now
	case lifecycle.JobUnclear:
		unknown = true
	case lifecycle.JobFailed:
		unknown = false
	default:
		return fmt.Errorf("%w: a job cannot end with result %d", lifecycle.ErrInvalid, o.Result)
	}
	n, err := t.quietly("job", `UPDATE jobs SET state = ?, not_before = ?, finished = ?, unknown = ?, said = ?, claimed_until = 0
		WHERE id = ? AND state = 'claimed' AND attempts = ? AND lease = ?`, string(state), notBefore, finished, bit(unknown), o.Said, j.ID, j.Attempts, j.Lease)
	if err == nil && n == 0 {
		return fmt.Errorf("job %d: %w", j.ID, lifecycle.ErrClaimLost)
	}
	return err
}

func (t *transaction) Jobs(s lifecycle.JobState, after int64, limit int) ([]lifecycle.Job, error) {
	return t.jobs("WHERE j.state = ? AND j.id > ? ORDER BY j.id LIMIT ?", string(s), after, limit)
}

func (t *transaction) ReviveJob(id int64) error {
	n, err := t.quietly("job", "UPDATE jobs SET state = 'waiting', not_before = 0, finished = 0 WHERE id = ? AND state = 'dead'", id)
	if err == nil && n == 0 {
		return fmt.Errorf("dead job %d: %w", id, key.ErrNotFound)
	}
	return err
}

func (t *transaction) jobs(where string, args ...any) ([]lifecycle.Job, error) {
	rows, err := t.rows("SELECT "+jobColumns+" FROM jobs j "+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := []lifecycle.Job{}
	for rows.Next() {
		var j lifecycle.Job
		var notBefore, created, finished int64
		if err := rows.Scan(&j.ID, &j.Target, &j.Kind, &j.Payload, &j.State, &notBefore, &j.Attempts, &j.Unknown, &j.Said, &j.Lease, &created, &finished); err != nil {
			return nil, err
		}
		j.NotBefore, j.Created, j.Finished = when(notBefore), when(created), when(finished)
		out = append(out, j)
	}
	return out, rows.Err()
}
