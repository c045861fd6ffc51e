package hsm

// OpKind says what an operation does.
type OpKind uint8

// The operations. What In and Out hold:
//
//	OpSign     RSA_PKCS (the DigestInfo of Hash is added here), RSA_PKCS_PSS (salt as long as Hash, MGF1 over Hash),
//	           ECDSA: In is the digest, no longer than the curve's order (the caller truncates); ECDSA gives r ‖ s, each of
//	           the order's width. EDDSA, SHA*_HMAC, AES_CMAC: In is the message, Out the signature or the whole MAC.
//	OpEncrypt  AES_GCM: Out is IV(12) ‖ ciphertext ‖ tag(16). The token's side chooses the IV at random;
//	           a caller cannot, so that a retry never repeats one.
//	OpDecrypt  AES_GCM: In as above. RSA_PKCS_OAEP (Hash for both the label's hash and MGF1, empty label): In is one block.
//	OpWrap     AES_KEY_WRAP (RFC 3394) and AES_KEY_WRAP_KWP (RFC 5649): In is clear key material, Out its wrapping. RFC 3394
//	           takes multiples of 8 from 16 bytes on; other lengths are refused, never padded.
//	OpUnwrap   the inverse of OpWrap. The key should be one that may decrypt too, as [SpecFor] has it: some tokens unwrap
//	           long material no other way.
//	OpRandom   Len random bytes from the token; no key.
const (
	OpSign OpKind = iota + 1
	OpEncrypt
	OpDecrypt
	OpWrap
	OpUnwrap
	OpRandom
)

// String returns the operation's name as it appears in metrics and logs.
func (k OpKind) String() string {
	switch k {
	case OpSign:
		return "sign"
	case OpEncrypt:
		return "encrypt"
	case OpDecrypt:
		return "decrypt"
	case OpWrap:
		return "wrap"
	case OpUnwrap:
		return "unwrap"
	case OpRandom:
		return "random"
	}
	return "unknown"
}

// Op is one cryptographic operation with one key.
type Op struct {
	Kind OpKind
	Mech Mechanism
	// Key is the object to use, set by whoever holds the session.
	Key Handle
	In  []byte
	// Len is the number of bytes wanted of OpRandom.
	Len int
	// Out is the result, in the memory of Out where its capacity suffices with room to spare, else in new
	// memory. It is empty when Err is not nil, and holds nothing of a result then.
	Out []byte
	// Err is what became of the operation; its [FaultOf] decides what happens next.
	Err error
}

// GCM lengths in bytes, fixed for all of Keyway (NIST SP 800-38D, 8.2.2: a random 96-bit IV).
const (
	GCMIVSize  = 12
	GCMTagSize = 16
)
