package lifecycle

import (
	"bytes"
	"errors"
	"fmt"

	"keyway/hsm"
	"keyway/lifecycle/key"
)

// keks looks for the KEKs that the store knows on the token. It finds and computes check values only.
func (t *trial) keks(s hsm.Session, info hsm.Info) error {
	if bad := t.others(s); bad != nil {
		return bad
	}
	mine := t.m.cfg.KEK
	holds, bad := t.holds(s, *mine, "the KEK of pool "+t.r.Pool)
	if bad != nil {
		return bad
	}
	if holds {
		t.say("it holds the pool's KEK (check value %X)", mine.KCV)
		return nil
	}
	return t.root(s, info)
}

// others refuses a token that holds KEKs which say that it is something else.
func (t *trial) others(s hsm.Session) error {
	find := func(id key.ID) (bool, error) {
		_, err := s.Find(hsm.ClassSecret, id[:])
		switch {
		case err == nil, errors.Is(err, hsm.ErrAmbiguous):
			return true, nil
		case errors.Is(err, hsm.ErrNotFound):
			return false, nil
		}
		return false, misfit(CauseFailed, "", "looking for KEKs on its token failed").because(err)
	}
	if c := t.what.custody; c != nil {
		if found, err := find(c.ID); found || err != nil {
			return orFailed(err, misfit(CauseOtherKEK, "custody needs a token of its own: name another one", "its token is the custody token: it holds the custody KEK"))
		}
	}
	members := map[string]MemberRecord{}
	for _, r := range t.what.members {
		members[r.Pool+"/"+r.Name] = r
	}
	for _, k := range t.what.roots {
		r, member := members[k.Name]
		if k.Name == t.name || !member {
			continue
		}
		if found, err := find(k.ID); found || err != nil {
			return orFailed(err, taken(r.Pool, r.Name))
		}
	}
	for _, k := range t.what.pools {
		if k.Name == t.r.Pool {
			continue
		}
		if found, err := find(k.ID); found || err != nil {
			return orFailed(err, misfit(CauseOtherKEK, "a token serves one pool: name another one, or, if it left that pool for good, destroy that key on it with the vendor's tools",
				"its token holds the KEK of pool %s (CKA_ID %s)", k.Name, k.ID))
		}
	}
	return nil
}

// orFailed returns err if there is one, else bad.
func orFailed(err error, bad *Misfit) error {
	if err != nil {
		return err
	}
	return bad
}

// holds reports whether the token holds k. Something else in its place is a misfit.
func (t *trial) holds(s hsm.Session, k KEK, what string) (bool, error) {
	const do = "destroy what is there with the vendor's tools, if nothing else uses it, or name another token"
	h, err := s.Find(hsm.ClassSecret, k.ID[:])
	switch {
	case errors.Is(err, hsm.ErrNotFound):
		return false, nil
	case errors.Is(err, hsm.ErrAmbiguous):
		return false, misfit(CauseKEKDiffers, do, "its token holds several keys in the place of %s (CKA_ID %s)", what, k.ID)
	case err != nil:
		return false, misfit(CauseFailed, "", "looking for KEKs on its token failed").because(err)
	}
	got, err := keyCheckValue(s, h)
	if err != nil {
		return false, misfit(CauseKEKDiffers, do, "its token holds a key in the place of %s (CKA_ID %s) that cannot be checked", what, k.ID).because(err)
	}
	if !bytes.Equal(got, k.KCV) {
		return false, misfit(CauseKEKDiffers, do, "its token holds another key in the place of %s (CKA_ID %s): its check value is %X, not %X", what, k.ID, got, k.KCV)
	}
	return true, nil
}

// root sees to it that the token can be given the pool's KEK.
func (t *trial) root(s hsm.Session, info hsm.Info) error {
	c := t.m.cfg.Custody
	if c == nil {
		return misfit(CauseNoRoot, "configure custody, or put the KEK on the token in a ceremony", "its token does not hold the pool's KEK, and there is no custody token here that could send it")
	}
	var k *KEK
	for i := range t.what.roots {
		if t.what.roots[i].Name == t.name {
			k = &t.what.roots[i]
		}
	}
	if k != nil && k.KCV != nil {
		holds, err := t.holds(s, *k, "the Root KEK of "+t.name)
		if err != nil {
			return err
		}
		if !holds {
			return misfit(CauseNoRoot, fmt.Sprintf("if it was replaced or emptied, keyway member remove %s --forget-token frees the name for it; else name the right one", t.r.Name),
				"its token does not hold the Root KEK (CKA_ID %s) that %s was given on %s: it is another token, or was emptied", k.ID, t.name, k.Created.Format("2006-01-02"))
		}
		t.say("it holds its Root KEK (check value %X); the pool's KEK will be sent to it", k.KCV)
		return nil
	}
	if !c.cfg.AutoRoot {
		return misfit(CauseNoRoot, "give it one in a ceremony first (custody.auto_root makes one by itself, for development)", "its token has no Root KEK")
	}
	if !info.Has(hsm.RSAPKCSKeyPairGen) || !info.Has(hsm.RSAPKCSOAEP) {
		return misfit(CauseNoRoot, "give it a Root KEK in a ceremony", "its token has no Root KEK, and lacks what making one by itself takes, %s and %s", hsm.RSAPKCSKeyPairGen, hsm.RSAPKCSOAEP)
	}
	t.say("it has no Root KEK; one will be made, which nobody compares")
	return nil
}
