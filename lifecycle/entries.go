package lifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"keyway/lifecycle/audit"
	"keyway/lifecycle/key"
)

type authKey struct{}

// WithAuth returns ctx for commands whose actor was authenticated in this way. Without it the log says that the program itself acted in
// the actor's name.
func WithAuth(ctx context.Context, a audit.Auth) context.Context {
	return context.WithValue(ctx, authKey{}, a)
}

// sameAuth returns ctx with the authentication of another context.
func sameAuth(ctx, as context.Context) context.Context {
	if a, ok := as.Value(authKey{}).(audit.Auth); ok {
		return WithAuth(ctx, a)
	}
	return ctx
}

// by returns the actor of a command as the log has it. "" is this node.
func by(ctx context.Context, actor string) audit.Actor {
	if actor == "" {
		return audit.Actor{}
	}
	auth, ok := ctx.Value(authKey{}).(audit.Auth)
	if !ok {
		auth = audit.BySystem
	}
	return audit.Actor{Name: audit.PrincipalOf(actor), Auth: auth}
}

func keyObject(k *key.Key) audit.Object {
	return audit.Object{Kind: audit.KindKey, Name: audit.Name(k.Name), ID: k.ID}
}

func kekObject(k *KEK) audit.Object {
	return audit.Object{Kind: audit.KindKEK, Name: audit.Name(string(k.Kind) + "/" + k.Name), ID: k.ID}
}

func memberObject(r *MemberRecord) audit.Object {
	return audit.Object{Kind: audit.KindMember, Name: audit.Name(r.Pool + "/" + r.Name)}
}

func grantObject(id int64) audit.Object {
	return audit.Object{Kind: audit.KindGrant, Number: audit.Number(id)}
}

// configHash is the hash of a member's settings, which the log has instead of them.
func (r MemberRecord) configHash() audit.Hash {
	b, err := json.Marshal(r.settings())
	if err != nil {
		panic("a member's record cannot be written: " + err.Error()) // it has nothing but texts and numbers
	}
	return audit.HashOf(b)
}

// setState moves a version and says so in the log. It returns the state that v is in then.
func setState(tx Tx, who audit.Actor, v *key.Version, e key.Event, now time.Time) (key.State, error) {
	next, err := key.Next(v.State, e)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", v.Ref(), err)
	}
	if err := tx.SetState(v.ID, next, now); err != nil {
		return 0, err
	}
	return next, tx.Append(&audit.Entry{Actor: who, Action: audit.StateChanged, Object: audit.VersionObject(v), Details: audit.Details{From: v.State, Event: e, To: next}})
}

// kekMade says in the log that a KEK was made, and where it was put then.
func kekMade(k *KEK, members ...string) ([]*audit.Entry, error) {
	kcv, err := audit.KCVOf(k.KCV)
	if err != nil {
		return nil, fmt.Errorf("%s KEK %s: %w", k.Kind, k.Name, err)
	}
	out := []*audit.Entry{{Action: audit.KEKMade, Object: kekObject(k), Details: audit.Details{KCV: kcv}}}
	for _, m := range members {
		out = append(out, &audit.Entry{Action: audit.KEKInstalled, Object: kekObject(k), Details: audit.Details{KCV: kcv, Member: audit.Name(m)}})
	}
	return out, nil
}

// memberEntries says what became of a member: nothing when its record means the same as before. was is nil for a new one.
func memberEntries(who audit.Actor, was, is *MemberRecord) (out []*audit.Entry) {
	add := func(a audit.Action, d audit.Details) {
		out = append(out, &audit.Entry{Actor: who, Action: a, Object: memberObject(is), Details: d})
	}
	switch {
	case was == nil:
		add(audit.MemberAdded, audit.Details{Config: is.configHash(), Driver: audit.Name(is.Driver)})
		was = &MemberRecord{}
	case was.configHash() != is.configHash():
		add(audit.MemberChanged, audit.Details{Config: is.configHash()})
	}
	switch {
	case is.Drained && !was.Drained:
		add(audit.MemberDrained, audit.Details{})
	case was.Drained && !is.Drained:
		add(audit.MemberResumed, audit.Details{})
	}
	switch {
	case is.Latched != "" && is.Latched != was.Latched:
		add(audit.MemberLatched, audit.Details{Reason: audit.TextOf(is.Latched)})
	case is.Latched == "" && (was.Latched != "" || is.Clears != was.Clears):
		add(audit.LatchCleared, audit.Details{})
	}
	return out
}

// putMember stores a member where its record means something else than before, and says so in the log. was is nil for a new one.
func putMember(tx Tx, who audit.Actor, was, is *MemberRecord) error {
	entries := memberEntries(who, was, is)
	if len(entries) == 0 {
		return nil
	}
	if err := tx.PutMember(*is); err != nil {
		return err
	}
	return tx.Append(entries...)
}

// deleteMember takes a member out of the store and says so in the log.
func deleteMember(tx Tx, who audit.Actor, pool, name, reason string) error {
	if err := tx.DeleteMember(pool, name); err != nil {
		return err
	}
	return tx.Append(&audit.Entry{Actor: who, Action: audit.MemberRemoved, Object: memberObject(&MemberRecord{Pool: pool, Name: name}), Details: audit.Details{Reason: audit.TextOf(reason)}})
}

// deleteRoot forgets a Root KEK in the store and says so in the log when it had been made.
func deleteRoot(tx Tx, who audit.Actor, name string) error {
	k, err := tx.KEK(KEKRoot, name)
	if err != nil {
		return err
	}
	if err := tx.DeleteKEK(KEKRoot, name); err != nil || k.KCV == nil {
		return err
	}
	return tx.Append(&audit.Entry{Actor: who, Action: audit.KEKForgotten, Object: kekObject(k)})
}

// RecordMembers stores members that a configuration names: it decides how their tokens are found, the store whether they are drained or
// latched. Those called forget are taken out. Other members stay: operators added them. It returns the records as they are stored.
func RecordMembers(ctx context.Context, s Store, pool string, members []MemberRecord, forget []string) (out []MemberRecord, err error) {
	err = s.Update(ctx, func(tx Tx) error {
		out = nil
		all, err := tx.Members(pool)
		if err != nil {
			return err
		}
		stored := map[string]*MemberRecord{}
		for i := range all {
			stored[all[i].Name] = &all[i]
		}
		for _, r := range members {
			r.Pool = pool
			was := stored[r.Name]
			if was != nil {
				r.Drained, r.Latched, r.Clears = was.Drained, was.Latched, was.Clears
			}
			if err := putMember(tx, audit.Actor{}, was, &r); err != nil {
				return err
			}
			out = append(out, r)
		}
		for _, name := range forget {
			if stored[name] == nil {
				continue
			}
			if err := deleteMember(tx, audit.Actor{}, pool, name, "the configuration does not name it any more"); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// LatchMember stores whether a member is latched, and why; "" is not. actor is who cleared the latch.
func LatchMember(ctx context.Context, s Store, actor, pool, name, reason string) error {
	return changeMember(ctx, s, actor, pool, name, func(r *MemberRecord) { r.Latched = reason })
}

// changeMember changes a stored member. When f changes nothing, nothing is stored.
func changeMember(ctx context.Context, s Store, actor, pool, name string, f func(*MemberRecord)) error {
	return s.Update(ctx, func(tx Tx) error {
		all, err := tx.Members(pool)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Name == name {
				was := r
				f(&r)
				return putMember(tx, by(ctx, actor), &was, &r)
			}
		}
		return fmt.Errorf("member %s of pool %s: %w", name, pool, key.ErrNotFound)
	})
}
