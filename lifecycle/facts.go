package lifecycle

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

// factPage is how many keys are read at once.
const factPage = 500

// Facts yields the state of everything in the store that the audit log tells of, in the order of [audit.CompareObjects]. It is to be
// read before the transaction ends.
func Facts(tx Tx) iter.Seq2[*audit.Fact, error] {
	return func(yield func(*audit.Fact, error) bool) {
		for _, some := range []func(Tx, func(*audit.Fact) bool) (bool, error){clientFacts, grantFacts, kekFacts, keyFacts, memberFacts, versionFacts} {
			more, err := some(tx, func(f *audit.Fact) bool { return yield(f, nil) })
			if err != nil {
				yield(nil, err)
				return
			}
			if !more {
				return
			}
		}
	}
}

func clientFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	all, err := tx.Clients()
	for i := range all {
		f, err := audit.ClientFact(&all[i])
		if err != nil || !yield(f) {
			return false, err
		}
	}
	return true, err
}

func grantFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	all, err := tx.Grants()
	for i := range all {
		if !yield(audit.GrantFact(&all[i])) {
			return false, nil
		}
	}
	return true, err
}

// kekFacts leaves out what was only begun.
func kekFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	for _, kind := range []KEKKind{KEKCustody, KEKPool, KEKRoot} {
		all, err := tx.KEKs(kind)
		if err != nil {
			return false, err
		}
		for i := range all {
			if all[i].KCV == nil {
				continue
			}
			kcv, err := audit.KCVOf(all[i].KCV)
			if err != nil {
				return false, fmt.Errorf("%s KEK %s: %w", kind, all[i].Name, err)
			}
			if !yield(&audit.Fact{Object: kekObject(&all[i]), Details: audit.Details{KCV: kcv}}) {
				return false, nil
			}
		}
	}
	return true, nil
}

func keyFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	return eachKey(tx, func(k *key.Key) bool { return yield(audit.KeyFact(k)) })
}

func versionFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	return eachKey(tx, func(k *key.Key) bool {
		for _, v := range k.Versions {
			gone := v.State == key.Destroyed || v.State == key.DestroyedCompromised
			if !yield(audit.VersionFact(v, v.BlobMechanism != 0, gone && v.Blob == nil)) {
				return false
			}
		}
		return true
	})
}

func eachKey(tx Tx, yield func(*key.Key) bool) (bool, error) {
	for after := ""; ; {
		page, err := tx.Keys(after, factPage)
		if err != nil {
			return false, err
		}
		for _, k := range page {
			if !yield(k) {
				return false, nil
			}
		}
		if len(page) < factPage {
			return true, nil
		}
		after = page[len(page)-1].Name
	}
}

func memberFacts(tx Tx, yield func(*audit.Fact) bool) (bool, error) {
	all, err := tx.AllMembers()
	if err != nil {
		return false, err
	}
	// Pool and name one after the other sort otherwise than both joined.
	slices.SortFunc(all, func(a, b MemberRecord) int { return audit.CompareObjects(memberObject(&a), memberObject(&b)) })
	for i := range all {
		r := &all[i]
		if !yield(&audit.Fact{Object: memberObject(r), Details: audit.Details{Config: r.configHash(), Drained: audit.Flag(r.Drained), Latched: r.Latched != ""}}) {
			return false, nil
		}
	}
	return true, nil
}

// beginAtOnce is how many entries are appended at once when a log is begun.
const beginAtOnce = 1000

// BeginLog begins the audit log of a store that has none: an entry that names the log, for ever, and one for each object that is there
// already, in one transaction. Stores call it when they are opened.
func BeginLog(ctx context.Context, s Store) error {
	var size int64
	err := s.View(ctx, func(tx Tx) (err error) { size, err = tx.LogSize(); return err })
	if err != nil || size > 0 {
		return err
	}
	if err = s.Update(ctx, AdoptAll); err != nil {
		return fmt.Errorf("beginning the audit log: %w", err)
	}
	return nil
}

// AdoptAll is what BeginLog does in a transaction. Where there is a log it does nothing.
func AdoptAll(tx Tx) error {
	if size, err := tx.LogSize(); err != nil || size > 0 {
		return err
	}
	origin := audit.Origin("keyway/" + key.NewID().String())
	batch := []*audit.Entry{{Action: audit.LogBegun, Object: audit.Object{Kind: audit.KindLog, Name: "log"}, Details: audit.Details{Origin: origin}}}
	for f, err := range Facts(tx) {
		if err != nil {
			return err
		}
		batch = append(batch, &audit.Entry{Action: audit.Adopted, Object: f.Object, Details: f.Details})
		if len(batch) == beginAtOnce {
			if err := tx.Append(batch...); err != nil {
				return fmt.Errorf("taking over what is there: %w", err)
			}
			batch = batch[:0]
		}
	}
	if err := tx.Append(batch...); err != nil {
		return fmt.Errorf("taking over what is there: %w", err)
	}
	return nil
}
