package pkcs11

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"keyway/hsm"
)

//go:embed profiles/*.yaml
var profileFiles embed.FS

// builtIn reads the profiles that are part of the program, once.
var builtIn = sync.OnceValues(func() ([]Profile, error) {
	names, err := fs.Glob(profileFiles, "profiles/*.yaml")
	if err != nil {
		return nil, err
	}
	all := make([]Profile, 0, len(names))
	for _, n := range names {
		b, err := profileFiles.ReadFile(n)
		if err != nil {
			return nil, err
		}
		p, err := parseProfile(n, b)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	return all, nil
})

// Profiles returns the vendor profiles that are part of the program. The caller owns the slice, not what its entries point to. An
// error is a mistake in one of their files, which the tests of this package find.
func Profiles() ([]Profile, error) {
	all, err := builtIn()
	return slices.Clone(all), err
}

// ReadProfile reads a profile from a file of the form of those in profiles. The error tells everything that is wrong with the
// file, by line.
func ReadProfile(file string) (Profile, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return Profile{}, fmt.Errorf("reading the vendor profile: %w", err)
	}
	return parseProfile(file, b)
}

// figure is one value of a profile, and how it is known: Source says where it was published or how it was found, Measured whether
// we saw it ourselves.
type figure[T any] struct {
	Is       T      `yaml:"is"`
	Source   string `yaml:"source"`
	Measured bool   `yaml:"measured"`
}

// profileFile is a profile as a file has it. What is left out is as the standard has it, or not known.
type profileFile struct {
	Vendor string `yaml:"vendor"`
	Match  struct {
		Manufacturers []string `yaml:"manufacturers"`
		Models        []string `yaml:"models"`
		Libraries     []string `yaml:"libraries"`
	} `yaml:"match"`
	Limits struct {
		Sessions          figure[int]           `yaml:"sessions"`
		SessionsPerSecond figure[int]           `yaml:"sessions_per_second"`
		Objects           figure[int]           `yaml:"objects"`
		Concurrency       figure[int]           `yaml:"concurrency"`
		LargestMessage    figure[int]           `yaml:"largest_message"`
		LargestSecret     figure[int]           `yaml:"largest_secret"`
		IdleTimeout       figure[time.Duration] `yaml:"idle_timeout"`
		SlowestCall       figure[time.Duration] `yaml:"slowest_call"`
		// These are for people.
		PINTries   figure[int] `yaml:"pin_tries"`
		P256       figure[int] `yaml:"p256_per_second"`
		RSA2048    figure[int] `yaml:"rsa2048_per_second"`
		AESGCM     figure[int] `yaml:"aes_gcm_per_second"`
		AllObjects figure[int] `yaml:"all_objects"`
	} `yaml:"limits"`
	Behaviour struct {
		Broken         figure[[]uint32] `yaml:"broken"`
		OAEPHashes     figure[[]string] `yaml:"oaep_hashes"`
		ClearWrap      figure[[]string] `yaml:"clear_wrap"`
		TokenIV        figure[bool]     `yaml:"token_iv"`
		WrapsAnything  figure[bool]     `yaml:"wraps_anything"`
		ECNeedsPoint   figure[bool]     `yaml:"ec_needs_point"`
		WrapWholeOnly  figure[bool]     `yaml:"wrap_whole_only"`
		TrustsKeyTypes figure[bool]     `yaml:"trusts_key_types"`
		SerialGenerate figure[bool]     `yaml:"serial_generate"`
		FindAlone      figure[bool]     `yaml:"find_alone"`
	} `yaml:"behaviour"`
}

// parseProfile reads a profile; name is the file's, for errors.
func parseProfile(name string, b []byte) (Profile, error) {
	w := &mistakes{file: name}
	var f profileFile
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&f)
	var types *yaml.TypeError
	switch {
	case err == nil || errors.Is(err, io.EOF):
	case errors.As(err, &types):
		for _, s := range types.Errors {
			w.decoder(s)
		}
	default:
		w.decoder(strings.TrimPrefix(err.Error(), "yaml: "))
		return Profile{}, w.err()
	}
	var root yaml.Node
	if yaml.Unmarshal(b, &root) == nil && len(root.Content) == 1 {
		w.figures(root.Content[0])
	}
	l, h := &f.Limits, &f.Behaviour
	p := Profile{
		Vendor: hsm.Vendor(f.Vendor), Manufacturers: f.Match.Manufacturers, Models: f.Match.Models, Libraries: f.Match.Libraries,
		MaxSessions: l.Sessions.Is, OpenPerSecond: l.SessionsPerSecond.Is, MaxObjects: l.Objects.Is, Concurrency: l.Concurrency.Is,
		LargestMessage: l.LargestMessage.Is, LargestSecret: l.LargestSecret.Is, IdleTimeout: l.IdleTimeout.Is, SlowestCall: l.SlowestCall.Is,
		TokenIV: h.TokenIV.Is, WrapsAnything: h.WrapsAnything.Is, ECNeedsPoint: h.ECNeedsPoint.Is, WrapWholeOnly: h.WrapWholeOnly.Is,
		TrustsKeyTypes: h.TrustsKeyTypes.Is, SerialGenerate: h.SerialGenerate.Is, FindAlone: h.FindAlone.Is,
	}
	if !vendorName.MatchString(f.Vendor) {
		w.add(lineOf(&root, "vendor"), "vendor", "give the vendor's name: 1 to 32 of a-z, 0-9 and -, beginning with a letter")
	}
	for _, m := range h.Broken.Is {
		p.Broken = append(p.Broken, hsm.MechanismType(m))
	}
	hashes := []hsm.Hash{hsm.SHA512, hsm.SHA384, hsm.SHA256, hsm.SHA1} // strongest first
	for _, x := range hashes {
		if slices.Contains(h.OAEPHashes.Is, x.String()) {
			p.OAEPHashes = append(p.OAEPHashes, x)
		}
	}
	if len(p.OAEPHashes) != len(h.OAEPHashes.Is) {
		w.add(lineOf(&root, "oaep_hashes"), "behaviour.oaep_hashes", "use each of sha1, sha2-256, sha2-384 and sha2-512 at most once")
	}
	for _, n := range h.ClearWrap.Is {
		k, ok := keyTypeNames[n]
		if !ok {
			w.add(lineOf(&root, "clear_wrap"), "behaviour.clear_wrap", "use aes, generic, rsa, ec or ed25519")
			break
		}
		p.ClearWrap = append(p.ClearWrap, k)
	}
	if len(w.lines) > 0 {
		return Profile{}, w.err()
	}
	return p, nil
}

var (
	vendorName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	keyTypeNames = map[string]hsm.KeyType{"aes": hsm.KeyAES, "generic": hsm.KeyGeneric, "rsa": hsm.KeyRSA, "ec": hsm.KeyEC, "ed25519": hsm.KeyEd25519}
)
