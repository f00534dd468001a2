// Verifies proofs of hostbadge's audit log with the code of transparency-dev.
//
//	program record ORIGIN KEY PROOF             a file in the form of c2sp.org/tlog-proof; prints the record
//	program consistency ORIGIN KEY OLD NEW JSON two signed notes, and the output of audit prove --since --json
package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"

	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/formats/note"
	tlog "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 4 && args[0] == "record" {
		return record(args[1], args[2], args[3])
	}
	if len(args) == 6 && args[0] == "consistency" {
		return consistency(args[1], args[2], args[3], args[4], args[5])
	}
	return fmt.Errorf("unknown arguments")
}

func open(origin, key string, text []byte) (*log.Checkpoint, error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return nil, err
	}
	checkpoint, _, _, err := log.ParseCheckpoint(text, origin, verifier)
	return checkpoint, err
}

func record(origin, key, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var parsed tlog.TLogProof
	if err := parsed.Unmarshal(text); err != nil {
		return err
	}
	checkpoint, err := open(origin, key, parsed.Checkpoint)
	if err != nil {
		return err
	}
	hashes := make([][]byte, len(parsed.Hashes))
	for i := range parsed.Hashes {
		hashes[i] = parsed.Hashes[i][:]
	}
	leaf := sha256.Sum256(parsed.ExtraData)
	hash := rfc6962.DefaultHasher.HashLeaf(leaf[:])
	err = proof.VerifyInclusion(rfc6962.DefaultHasher, parsed.Index, checkpoint.Size, hash, hashes, checkpoint.Hash)
	if err != nil {
		return err
	}
	fmt.Println(string(parsed.ExtraData))
	return nil
}

func consistency(origin, key, oldFile, newFile, proofFile string) error {
	checkpoints := make([]*log.Checkpoint, 2)
	for i, file := range []string{oldFile, newFile} {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if checkpoints[i], err = open(origin, key, text); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(proofFile)
	if err != nil {
		return err
	}
	var parsed struct {
		Proof [][]byte `json:"proof"`
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return err
	}
	first, second := checkpoints[0], checkpoints[1]
	return proof.VerifyConsistency(
		rfc6962.DefaultHasher, first.Size, second.Size, parsed.Proof, first.Hash, second.Hash)
}
