package audit

// How each type of field is written, read and checked.

func (v *Name) zero() bool              { return *v == "" }
func (v *Name) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Name) read(s *scanner) error   { return readText(s, v) }
func (v *Name) check() error            { return checkNames(string(*v)) }

func (v *Principal) zero() bool              { return *v == "" }
func (v *Principal) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Principal) read(s *scanner) error   { return readText(s, v) }
func (v *Principal) check() error            { return matches(principalRE, "principal", string(*v)) }

func (v *Origin) zero() bool              { return *v == "" }
func (v *Origin) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Origin) read(s *scanner) error   { return readText(s, v) }
func (v *Origin) check() error            { return matches(originRE, "origin", string(*v)) }

func (v *Pattern) zero() bool              { return *v == "" }
func (v *Pattern) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Pattern) read(s *scanner) error   { return readText(s, v) }
func (v *Pattern) check() error            { return matches(patternRE, "pattern", string(*v)) }

func (t *Text) zero() bool              { return *t == "" }
func (t *Text) write(dst []byte) []byte { return writeText(dst, *t) }
func (t *Text) read(s *scanner) error   { return readText(s, t) }

func (v *Number) zero() bool              { return *v == 0 }
func (v *Number) write(dst []byte) []byte { return writeNumber(dst, *v) }
func (v *Number) read(s *scanner) error   { return readNumber(s, v) }
func (v *Number) check() error            { return checkNumber(*v) }

func (t *Time) zero() bool              { return *t == 0 }
func (t *Time) write(dst []byte) []byte { return writeNumber(dst, *t) }
func (t *Time) read(s *scanner) error   { return readNumber(s, t) }
func (t *Time) check() error            { return checkNumber(*t) }

func (v *Flag) zero() bool              { return !bool(*v) }
func (v *Flag) write(dst []byte) []byte { return append(dst, "true"...) } // false is left out
func (v *Flag) read(s *scanner) error   { *v = true; return s.want("true") }
func (v *Flag) check() error            { return nil }

func (h *Hash) zero() bool              { return *h == Hash{} }
func (h *Hash) write(dst []byte) []byte { return writeHex(dst, h.sum[:]) }
func (h *Hash) read(s *scanner) error   { return readHex(s, h.sum[:]) }
func (h *Hash) check() error            { return nil }

func (k *KCV) zero() bool              { return *k == KCV{} }
func (k *KCV) write(dst []byte) []byte { return writeHex(dst, k.b[:]) }
func (k *KCV) read(s *scanner) error   { return readHex(s, k.b[:]) }
func (k *KCV) check() error            { return nil }

func (v *Role) zero() bool              { return *v == "" }
func (v *Role) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Role) read(s *scanner) error   { return readText(s, v) }
func (v *Role) check() error            { return oneOf("role", *v, roles) }

func (v *Status) zero() bool              { return *v == "" }
func (v *Status) write(dst []byte) []byte { return writeText(dst, *v) }
func (v *Status) read(s *scanner) error   { return readText(s, v) }
func (v *Status) check() error            { return oneOf("status", *v, statuses) }
