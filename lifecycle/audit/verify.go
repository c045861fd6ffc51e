package audit

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Options are what a verification is held against. Without trusted keys nothing is verified.
type Options struct {
	// Trusted are the keys whose signatures count. Each checkpoint needs one of them.
	Trusted []note.Verifier
	// Required are keys that must all have signed the last checkpoint; they are trusted too.
	Required []note.Verifier
	// Earlier is a signed checkpoint that the reader kept from before; nil for none.
	Earlier []byte
	// EarlierState is the state digest of the report on the entries before a partial bundle; zero for none.
	EarlierState Hash
	// MinApprovals is how many approvals each executed plan needs, whatever it says itself.
	MinApprovals int
	// Tolerance is how far a clock may go back without a notice.
	Tolerance time.Duration
	// MaxAge is how old the newest cosignature of the last checkpoint may be at Now; 0 for any age.
	MaxAge time.Duration
	Now    time.Time
	// Each is called for every entry that can be read, in the order of the file, before it is known whether the whole
	// is verified; nil for nobody.
	Each func(*Entry)
}

// ErrOptions is wrapped by errors about what was demanded, not about what was found.
var ErrOptions = errors.New("audit: nothing could be verified")

// Verify reads a bundle to its end and checks everything there is to check. What it finds wrong is in the report; an
// error means that nothing can be said: r could not be read, or the options make no sense (an error wrapping [ErrOptions]).
func Verify(r io.Reader, o Options) (*Report, error) {
	if len(o.Trusted)+len(o.Required) == 0 {
		return nil, fmt.Errorf("%w: name at least one key you trust", ErrOptions)
	}
	v := &verification{
		Options: o, trusted: append(append([]note.Verifier{}, o.Trusted...), o.Required...), replay: NewReplay(),
		report: &Report{Actions: map[Action]int64{}, Earlier: -1, Failures: []Finding{}, Notices: []Finding{}, NotChecked: []string{}},
	}
	v.replay.MinApprovals = Number(o.MinApprovals)
	if o.Earlier != nil {
		s, err := OpenCheckpoint(o.Earlier, v.trusted)
		if err != nil {
			return nil, fmt.Errorf("%w: the earlier checkpoint: %w", ErrOptions, err)
		}
		v.earlier = s
		v.report.Earlier = s.Size
	}
	if err := v.run(r); err != nil {
		return nil, err
	}
	v.report.Verified = v.report.FailuresTotal == 0
	return v.report, nil
}

// verification is one run of Verify.
type verification struct {
	Options
	trusted []note.Verifier
	earlier *Signed
	report  *Report

	in        *lines
	head      header
	phase     phase
	tree      Tree
	recent    [256]Tree // the last trees, by size modulo their number
	replay    *Replay
	lastTime  Time
	last      *Signed // the last checkpoint
	proofs    []EarlierProof
	compared  bool // the earlier checkpoint has been compared
	base      []*Fact
	baseHash  hash.Hash
	state     *comparison
	ended     bool
	entrySeen bool
}

// phase is the section of a bundle.
type phase uint8

const (
	inKeys phase = iota + 1
	inEarlier
	inBase
	inEntries
	inState
	inEnd
)

func (v *verification) fail(c Check, format string, a ...any) {
	v.report.fail(c, -1, v.in.n, format, a...)
}

func (v *verification) run(r io.Reader) error {
	in, err := newLines(r)
	if err != nil {
		return err
	}
	v.in = in
	v.baseHash = sha256.New()
	line, err := in.next()
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errLongLine) {
		return err
	}
	if err := decodeLine(line, lineBundle, &v.head); err != nil {
		v.fail(CheckForm, "the first line does not say what the file is: %v", err)
		return nil
	}
	if !v.begin() {
		return nil
	}
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errLongLine) {
			v.fail(CheckForm, "%v", err)
			return nil
		}
		if err != nil {
			return err
		}
		if v.ended {
			v.fail(CheckForm, "something follows the end")
			break
		}
		v.line(line)
	}
	v.finish()
	return nil
}

// begin checks the header.
func (v *verification) begin() bool {
	h := v.head
	v.report.Origin, v.report.From, v.report.Size, v.report.Made = h.Origin, h.From, h.Size, h.Made
	if h.Format != format {
		v.fail(CheckForm, "the file has format %d, and this program knows %d", h.Format, format)
		return false
	}
	if err := h.Origin.check(); err != nil {
		v.fail(CheckForm, "%v", err)
		return false
	}
	t, err := resumePeaks(h.From, h.Subtrees)
	if err != nil {
		v.fail(CheckForm, "%v", err)
		return false
	}
	v.tree = t.clone()
	v.remember()
	if v.earlier != nil && v.earlier.Origin != h.Origin {
		v.fail(CheckEarlier, "your earlier checkpoint is of the log %s, and this is %s", v.earlier.Origin, h.Origin)
	}
	v.compareEarlier()
	v.phase = inKeys
	return true
}

// remember keeps the tree for entries that speak of its root.
func (v *verification) remember() {
	slot := &v.recent[v.tree.size%int64(len(v.recent))]
	slot.size, slot.peaks = v.tree.size, append(slot.peaks[:0], v.tree.peaks...)
}

// compareEarlier compares the tree with the reader's earlier checkpoint when it has its size.
func (v *verification) compareEarlier() {
	if v.earlier == nil || v.tree.size != v.earlier.Size {
		return
	}
	v.compared = true
	if v.tree.size > 0 && v.tree.Root() != v.earlier.Root {
		v.fail(CheckEarlier, "the first %d entries are not those of the checkpoint you kept", v.tree.size)
	}
}

// finish looks at the whole.
func (v *verification) finish() {
	v.in.n = 0 // what is found from here on is about no line
	r := v.report
	if !v.ended {
		v.fail(CheckDamage, "the file stops before its end")
	}
	if v.tree.size != v.head.Size {
		v.fail(CheckDamage, "the file has entries up to %d, and says that the log has %d", v.tree.size, v.head.Size)
	}
	if v.tree.size == v.head.From {
		v.fail(CheckDamage, "the file has no entries")
	}
	for _, p := range v.replay.Finish() {
		r.fail(p.Check, p.Entry, 0, "%s", p.What)
	}
	v.startState()
	v.state.finish(v)
	r.Facts, r.StateDigest = v.state.facts, v.state.digest()
	v.finishCheckpoints()
	v.finishEarlier()
	if v.head.From > 0 {
		v.finishBase()
	}
}

func (v *verification) finishCheckpoints() {
	if v.last == nil {
		v.fail(CheckTail, "the file has no checkpoint")
		return
	}
	v.report.LastCheckpoint = &Vouched{v.last.Size, base64.StdEncoding.EncodeToString(v.last.Root[:]), v.last.Note, v.last.Good, v.last.Bad, v.last.Unknown}
	if v.last.Size < v.tree.size {
		v.fail(CheckTail, "the last checkpoint is of %d entries, and there are %d", v.last.Size, v.tree.size)
	}
	var newest Time
	for _, s := range v.last.Good {
		newest = max(newest, s.Time)
	}
	for _, k := range v.Required {
		found := false
		for _, s := range v.last.Good {
			found = found || s.Name == k.Name() && s.Hash == k.KeyHash()
		}
		if !found {
			v.fail(CheckRequired, "the last checkpoint, of %d entries, is not signed by %s+%08x", v.last.Size, k.Name(), k.KeyHash())
		}
	}
	switch {
	case v.MaxAge == 0:
		v.report.NotChecked = append(v.report.NotChecked, "how recent the end of the log is: demand a witness's signature of a certain age for that")
	case newest == 0:
		v.fail(CheckFresh, "no witness you trust has put a time to the last checkpoint")
	case newest.Time().Before(v.Now.Add(-v.MaxAge)):
		v.fail(CheckFresh, "the newest signature with a time is of %s, which is more than %s ago", newest, v.MaxAge)
	}
}

func (v *verification) finishEarlier() {
	switch {
	case v.earlier == nil:
		v.report.NotChecked = append(v.report.NotChecked, "whether the log continues one that was seen before: keep the last checkpoint of this bundle and give it next time")
		return
	case v.compared, v.earlier.Size == 0: // every log begins with nothing
	case v.earlier.Size > v.tree.size:
		v.fail(CheckEarlier, "you kept a checkpoint of %d entries, and this log ends after %d", v.earlier.Size, v.tree.size)
	default: // before the first entry
		now := v.tree.Checkpoint(v.earlier.Origin)
		err := errors.New("the file has no proof for it: ask for an export that has, or for the whole log")
		for _, p := range v.proofs {
			if p.Size == v.earlier.Size {
				err = CheckConsistency(p.Proof, now, v.earlier.Checkpoint)
				break
			}
		}
		if err != nil {
			v.fail(CheckEarlier, "the checkpoint of %d entries you kept: %v", v.earlier.Size, err)
		}
	}
	if len(v.earlier.Good) == 0 {
		v.report.notice(CheckSignature, -1, 0, "the earlier checkpoint you gave is signed by no key you trust; its content was compared all the same")
	}
}

func (v *verification) finishBase() {
	var digest Hash
	v.baseHash.Sum(digest.sum[:0])
	switch {
	case v.EarlierState == Hash{}:
		v.report.NotChecked = append(v.report.NotChecked, fmt.Sprintf("the state before entry %d, which is as the file says (digest %s): compare with the report on the entries before", v.head.From, digest))
	case v.EarlierState != digest:
		v.fail(CheckState, "the state before entry %d has the digest %s, and you expect %s", v.head.From, digest, v.EarlierState)
	}
}
