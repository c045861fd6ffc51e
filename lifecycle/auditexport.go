package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"keyway/lifecycle/audit"
)

const (
	// entryPage is how many entries are read at once.
	entryPage = 1000
	// maxScan bounds how many entries one listing looks at.
	maxScan = 20_000
)

// List returns up to limit entries after one, -1 for the first, in their canonical form; with a name those about the key of that name and its
// versions. next is what to pass as after to go on, -1 at the end; it is not the last entry returned where many were passed over.
func (a *AuditLog) List(ctx context.Context, after int64, limit int, keyName string) (out []json.RawMessage, next int64, err error) {
	err = a.cfg.Store.View(ctx, func(tx Tx) error {
		out, next = []json.RawMessage{}, after
		for scanned := 0; ; {
			page, err := tx.Entries(next+1, entryPage)
			if err != nil {
				return err
			}
			for _, leaf := range page {
				if len(out) == limit || scanned == maxScan {
					return nil
				}
				next++
				scanned++
				e, err := audit.Decode(leaf)
				if err != nil {
					return fmt.Errorf("%w: entry %d was changed: %w", ErrLogDamaged, next, err)
				}
				if of := e.Object; keyName == "" || string(of.Name) == keyName && (of.Kind == audit.KindKey || of.Kind == audit.KindVersion) {
					out = append(out, leaf)
				}
			}
			if len(page) < entryPage {
				next = -1
				return nil
			}
		}
	})
	return out, next, err
}

// errAgain ends an export whose transaction was lost: what is written cannot be taken back.
var errAgain = errors.New("the link to the store was lost while the log was read: export it again")

// Export writes the log from entry from on as a bundle for auditors, in one transaction, and ends it with a checkpoint that is signed for it. That it was
// exported is its last entry but for what others have appended meanwhile.
func (a *AuditLog) Export(ctx context.Context, actor string, from int64, w io.Writer) error {
	err := a.cfg.Store.Update(ctx, func(tx Tx) error {
		size, err := tx.LogSize()
		if err != nil {
			return err
		}
		if from < 0 || from > size {
			return fmt.Errorf("%w: the log has %d entries, so it cannot be exported from entry %d on", ErrInvalid, size, from)
		}
		tree, err := audit.Resume(size, tx)
		if err != nil {
			return err
		}
		return tx.Append(&audit.Entry{Actor: by(ctx, actor), Action: audit.ExportMade, Object: audit.Object{Kind: audit.KindLog, Name: "log"}, Details: audit.Details{
			Size: audit.Number(size), Root: audit.RootHash(tree.Root()), Start: audit.Number(from),
		}})
	})
	if err != nil {
		return err
	}
	begun := false
	return a.cfg.Store.View(ctx, func(tx Tx) error {
		if begun {
			return errAgain
		}
		begun = true
		s, err := a.source(tx, from)
		if err != nil {
			return err
		}
		return audit.Export(w, s)
	})
}

func (a *AuditLog) source(tx Tx, from int64) (audit.Source, error) {
	a.mu.Lock()
	end, msg, err := a.checkpoint(tx)
	a.mu.Unlock()
	if err != nil {
		return audit.Source{}, err
	}
	s := audit.Source{
		Origin: a.origin, Size: end.Size, Made: time.Now(), Entries: entries(tx, from, end.Size), Checkpoints: checkpoints(tx, from, end.Size, msg), State: Facts(tx),
	}
	if s.Keys, err = tx.LogKeys(); err != nil {
		return s, err
	}
	if from == 0 {
		return s, nil
	}
	if s.Before, err = audit.Resume(from, tx); err != nil {
		return s, err
	}
	r := audit.NewReplay()
	for leaf, err := range entries(tx, 0, from) {
		if err != nil {
			return s, err
		}
		e, err := audit.Decode(leaf)
		if err != nil {
			return s, fmt.Errorf("%w: the state before entry %d does not follow from it: %w; export the whole log", ErrLogDamaged, from, err)
		}
		r.Apply(e) // what is wrong with it is for the reader of the whole log
	}
	s.Base = func(yield func(*audit.Fact, error) bool) {
		for f := range r.Facts() {
			if !yield(f, nil) {
				return
			}
		}
	}
	return s, nil
}

// entries yields the entries of a part of the log, page by page.
func entries(tx Tx, from, to int64) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for from < to {
			page, err := tx.Entries(from, int(min(entryPage, to-from)))
			if err == nil && len(page) == 0 {
				err = fmt.Errorf("%w: entry %d is missing: somebody has removed it", ErrLogDamaged, from)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			for _, leaf := range page {
				if !yield(leaf, nil) {
					return
				}
			}
			from += int64(len(page))
		}
	}
}

// checkpoints yields the stored checkpoints between two sizes, and then the one of the end.
func checkpoints(tx Tx, after, end int64, last []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for {
			page, err := tx.Checkpoints(after, entryPage)
			if err != nil {
				yield(nil, err)
				return
			}
			for _, msg := range page {
				c, err := audit.OpenCheckpoint(msg, nil)
				if err != nil {
					yield(nil, fmt.Errorf("%w: a checkpoint after entry %d was changed: %w", ErrLogDamaged, after, err))
					return
				}
				if after = c.Size; after >= end {
					break
				}
				if !yield(msg, nil) {
					return
				}
			}
			if len(page) < entryPage || after >= end {
				yield(last, nil)
				return
			}
		}
	}
}
