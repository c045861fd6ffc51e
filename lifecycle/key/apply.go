package key

import (
	"fmt"
	"slices"
	"time"
)

// Record is a key with all that is known of where it is. [Apply] is the whole of what may become of it, without a
// database: a preview runs it, and the store must agree with it.
type Record struct {
	Key         Key
	Deployments []Deployment
}

// Verb is what a [Command] does to a [Record].
type Verb uint8

// The verbs.
const (
	VerbAdd    Verb = iota + 1 // a new version, pre-active, numbered by Apply
	VerbChange                 // Event to Version
	VerbPlan                   // Version is wanted at Target
	VerbDeploy                 // Deploy happens to Version at Target
	VerbWaive                  // Person answers for Version at Target
	VerbTime                   // nothing but the time: what the dates demand
)

// Command is one change of a record at the time At, which comes from a [Clock].
type Command struct {
	Verb    Verb
	At      time.Time
	Version uint32
	Event   Event
	Target  string
	Deploy  DeploymentEvent
	Person  string
	// Overlap is how long the version that was primary goes on protecting beside the one that Activate makes primary.
	Overlap time.Duration
}

// Apply returns the record after the command, or an error that tells what forbids it, wrapping [ErrNotFound],
// [ErrState], [ErrTransition] or [ErrDeployment]. It never changes r. Whatever the command, the deployments then follow
// their versions ([Forced]), at the same moment.
func Apply(r *Record, c *Command) (*Record, error) {
	out := r.clone()
	if err := out.apply(c); err != nil {
		return nil, err
	}
	if err := out.follow(c); err != nil {
		return nil, err
	}
	return out, nil
}

// clone copies everything that apply may change.
func (r *Record) clone() *Record {
	out := &Record{Key: r.Key, Deployments: slices.Clone(r.Deployments)}
	out.Key.Versions = slices.Clone(r.Key.Versions)
	for i, v := range out.Key.Versions {
		x := *v
		out.Key.Versions[i] = &x
	}
	for i := range out.Deployments {
		out.Deployments[i].Waivers = slices.Clone(out.Deployments[i].Waivers)
	}
	return out
}

func (r *Record) apply(c *Command) error {
	k := &r.Key
	switch c.Verb {
	case VerbTime:
		return nil
	case VerbAdd:
		number := uint32(1)
		if n := len(k.Versions); n > 0 {
			number = k.Versions[n-1].Number + 1
		}
		k.Versions = append(k.Versions, &Version{KeyID: k.ID, Name: k.Name, Number: number, Algorithm: k.Algorithm, Usages: k.Usages, Pool: k.Pool, State: PreActive, Created: c.At})
		return nil
	}
	v := k.version(c.Version)
	if v == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, Ref{k.Name, c.Version})
	}
	if c.Verb == VerbChange {
		return r.change(v, c)
	}
	i := slices.IndexFunc(r.Deployments, func(d Deployment) bool { return d.Version == c.Version && d.Target == c.Target })
	if c.Verb == VerbPlan {
		switch {
		case i >= 0:
			return fmt.Errorf("%w: %s is %s at %s already", ErrDeployment, v.Ref(), r.Deployments[i].State, c.Target)
		case !slices.Contains(ordered[v.Effective(c.At)], DeployApprove):
			return fmt.Errorf("%w: a version that is %s goes to no target", ErrDeployment, v.Effective(c.At))
		}
		r.Deployments = append(r.Deployments, Deployment{Version: v.Number, Target: c.Target, State: DeploymentPlanned})
		return nil
	}
	if i < 0 {
		return fmt.Errorf("%w: %s at %s", ErrNotFound, v.Ref(), c.Target)
	}
	d := &r.Deployments[i]
	switch c.Verb {
	case VerbDeploy:
		next, err := Deploy(v, d.State, c.Deploy, c.At)
		if err != nil {
			return err
		}
		d.State = next
		if !next.Mishap() && next != DeploymentRemoving {
			d.Waivers = nil // the target answered, so there is nothing to answer for in its place
		}
		return nil
	case VerbWaive:
		if c.Person == "" || !d.State.Mishap() || slices.Contains(d.Waivers, c.Person) {
			return fmt.Errorf("%w: nothing for %q to waive at %s, which is %s", ErrDeployment, c.Person, c.Target, d.State)
		}
		d.Waivers = append(d.Waivers, c.Person)
		return nil
	}
	return fmt.Errorf("%w: unknown verb %d", ErrTransition, c.Verb)
}

// change moves a version and what hangs on it: the primary version, and the material.
func (r *Record) change(v *Version, c *Command) error {
	k := &r.Key
	next, err := Next(v.State, c.Event)
	if err != nil {
		return fmt.Errorf("%s: %w", v.Ref(), err)
	}
	switch {
	case c.Event == Resume && k.Primary != v.Number:
		// Another version took over meanwhile, or none is to: two would protect. Deactivated, it opens what it protected.
		return fmt.Errorf("%w: %s is not primary any more: deactivate it instead", ErrState, v.Ref())
	case next == Destroyed || next == DestroyedCompromised:
		for i := range r.Deployments {
			if d := &r.Deployments[i]; c.Event == Destroy && d.Version == v.Number && !d.Settled() {
				return fmt.Errorf("%w: %s is %s at %s: remove it there, or have %d people waive that", ErrState, v.Ref(), d.State, d.Target, Waivers)
			}
		}
		v.Blob, v.BlobMechanism = nil, 0
	}
	v.State = next
	switch {
	case c.Event == Activate:
		if old := k.version(k.Primary); old != nil && old.State == Active {
			if c.Overlap > 0 {
				old.OriginatorEnd = earliest(old.OriginatorEnd, c.At.Add(c.Overlap))
			} else {
				old.State = Deactivated
			}
		}
		// A suspended primary is not primary any more and stays suspended: a rotation must not make it open things again.
		k.Primary = v.Number
	case k.Primary == v.Number && next != Active && next != Suspended:
		k.Primary = 0
	}
	return nil
}

// follow moves every deployment as its version's state and dates demand. A mishap is left for a person to see and an
// inspection to resolve, unless it was its version that the command changed.
func (r *Record) follow(c *Command) error {
	for i := range r.Deployments {
		d := &r.Deployments[i]
		v := r.Key.version(d.Version)
		if v == nil {
			return fmt.Errorf("%w: %s, which is deployed at %s", ErrNotFound, Ref{r.Key.Name, d.Version}, d.Target)
		}
		e, _, ok := Forced(v, d.State, c.At)
		if !ok || d.State.Mishap() && (c.Verb != VerbChange || c.Version != d.Version) {
			continue
		}
		next, err := NextDeployment(d.State, e)
		if err != nil {
			return fmt.Errorf("%s at %s: %w", v.Ref(), d.Target, err)
		}
		d.State = next
	}
	return nil
}

func (k *Key) version(number uint32) *Version {
	for _, v := range k.Versions {
		if v.Number == number {
			return v
		}
	}
	return nil
}
