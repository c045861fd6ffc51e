package hsmtest

import (
	"bytes"
	"encoding/hex"
	"testing"
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// The judge is judged by the published vectors: RFC 3394, 4, RFC 5649, 6, and RFC 4493, 4.
func TestReferences(t *testing.T) {
	const k16, k24, k32 = "000102030405060708090A0B0C0D0E0F", "000102030405060708090A0B0C0D0E0F1011121314151617",
		"000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F"
	const d16, d24, d32 = "00112233445566778899AABBCCDDEEFF", "00112233445566778899AABBCCDDEEFF0001020304050607",
		"00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F"
	f := func(wrap func(kek, in []byte) []byte, unwrap func(kek, blob []byte) ([]byte, error), kek, in, blob string) {
		t.Helper()
		if got := wrap(unhex(kek), unhex(in)); !bytes.Equal(got, unhex(blob)) {
			t.Errorf("wrapped to %X, want %s", got, blob)
		}
		if got, err := unwrap(unhex(kek), unhex(blob)); err != nil || !bytes.Equal(got, unhex(in)) {
			t.Errorf("unwrapped to %X, %v, want %s", got, err, in)
		}
		for i := range unhex(blob) {
			bad := unhex(blob)
			bad[i] ^= 1
			if _, err := unwrap(unhex(kek), bad); err == nil {
				t.Errorf("byte %d of %s may change", i, blob)
			}
		}
	}
	f(WrapKW, UnwrapKW, k16, d16, "1FA68B0A8112B447AEF34BD8FB5A7B829D3E862371D2CFE5")
	f(WrapKW, UnwrapKW, k24, d16, "96778B25AE6CA435F92B5B97C050AED2468AB8A17AD84E5D")
	f(WrapKW, UnwrapKW, k32, d16, "64E8C3F9CE0F5BA263E9777905818A2A93C8191E7D6E8AE7")
	f(WrapKW, UnwrapKW, k24, d24, "031D33264E15D33268F24EC260743EDCE1C6C7DDEE725A936BA814915C6762D2")
	f(WrapKW, UnwrapKW, k32, d24, "A8F9BC1612C68B3FF6E6F4FBE30E71E4769C8B80A32CB8958CD5D17D6B254DA1")
	f(WrapKW, UnwrapKW, k32, d32, "28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21")
	const kwp = "5840DF6E29B02AF1AB493B705BF16EA1AE8338F4DCC176A8"
	f(WrapKWP, UnwrapKWP, kwp, "C37B7E6492584340BED12207808941155068F738", "138BDEAA9B8FA7FC61F97742E72248EE5AE6AE5360D1AE6A5F54F373FA543B6A")
	f(WrapKWP, UnwrapKWP, kwp, "466F7250617369", "AFBEB0F07DFBF5419200F2CCB50BB24F")
	for msg, want := range map[string]string{
		"":                                 "BB1D6929E95937287FA37D129B756746",
		"6BC1BEE22E409F96E93D7E117393172A": "070A16B46B4D4144F79BDD9DD04A287C",
		"6BC1BEE22E409F96E93D7E117393172AAE2D8A571E03AC9C9EB76FAC45AF8E5130C81C46A35CE411": "DFA66747DE9AE63030CA32611497C827",
		"6BC1BEE22E409F96E93D7E117393172AAE2D8A571E03AC9C9EB76FAC45AF8E51" +
			"30C81C46A35CE411E5FBC1191A0A52EFF69F2445DF4F9B17AD2B417BE66C3710": "51F0BEBF7E3B9D92FC49741779363CFE",
	} {
		if got := cmac(unhex("2B7E151628AED2A6ABF7158809CF4F3C"), unhex(msg)); !bytes.Equal(got, unhex(want)) {
			t.Errorf("CMAC of %d bytes is %X, want %s", len(msg)/2, got, want)
		}
	}
}
